//! Announcements in a hash of Redis: field by key, one JSON text each.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Script;
use serde::Deserialize;

use super::Error;
use super::wire::Row;
use crate::redis::Connection;

/// How long a row stays without a heartbeat: longer than any watcher remembers.
const FORGET: Duration = Duration::from_secs(7200);

/// A row is refused from somebody who has a successor, or has drained. Every hundredth heartbeat clears what is long dead.
const BEAT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local old = redis.call('HGET', KEYS[1], ARGV[1])
local incarnation, beat = tonumber(ARGV[2]), tonumber(ARGV[3])
if old then
  old = cjson.decode(old)
  if incarnation == 0 then
    incarnation = math.max(now, old.i + 1)
  elseif old.i > incarnation or (old.i == incarnation and old.e == '' and ARGV[5] ~= '') then
    return -1
  end
elseif incarnation == 0 then
  incarnation = now
end
local row = {i = incarnation, b = beat, at = now, every = tonumber(ARGV[4]), e = ARGV[5]}
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(row))
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if beat % 100 == 0 then
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    if cjson.decode(all[at + 1]).at < now - tonumber(ARGV[6]) then redis.call('HDEL', KEYS[1], all[at]) end
  end
end
return incarnation
";

const LOOK: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
table.insert(all, 1, tostring(now))
return all
";

#[derive(Deserialize)]
struct Entry {
    i: i64,
    b: i64,
    at: i64,
    every: i64,
    e: String,
}

/// The hash of one service.
#[derive(Clone)]
pub(super) struct Kept {
    connection: Connection,
    hash: String,
    scripts: Arc<(Script, Script)>,
}

impl Kept {
    pub(super) fn new(service: &str, connection: Connection) -> Self {
        Self {
            connection,
            hash: format!("ha:registry:{{{service}}}"),
            scripts: Arc::new((Script::new(BEAT), Script::new(LOOK))),
        }
    }

    /// `None` when a successor has the key.
    pub(super) async fn beat(
        &self,
        key: &str,
        incarnation: i64,
        beat: i64,
        every: Duration,
        text: &str,
    ) -> Result<Option<i64>, Error> {
        let mut call = self.scripts.0.key(&self.hash);
        call.arg(key)
            .arg(incarnation)
            .arg(beat)
            .arg(millis(every))
            .arg(text)
            .arg(millis(FORGET));
        let given: i64 = self.connection.script(&call).await?;
        Ok((given > 0).then_some(given))
    }

    pub(super) async fn look(&self) -> Result<Vec<Row>, Error> {
        let call = self.scripts.1.key(&self.hash);
        let all: Vec<String> = self.connection.script(&call).await?;
        let now: i64 = all.first().and_then(|now| now.parse().ok()).unwrap_or(0);
        let rows = all[1.min(all.len())..].chunks_exact(2);
        Ok(rows.filter_map(|row| read(&row[0], &row[1], now)).collect())
    }
}

fn read(key: &str, text: &str, now: i64) -> Option<Row> {
    let kept: Entry = serde_json::from_str(text).ok()?;
    let age = now.saturating_sub(kept.at);
    Row::read(key, kept.i, kept.b, kept.every, age, &kept.e)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
