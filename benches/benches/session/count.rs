//! What the servers were asked: the difference of `INFO commandstats` and of `pg_stat_statements`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ha_testbed::postgres::Client;
use ha_testbed::{postgres, redis};

use crate::Outcome;

/// Calls by command or by text of the statement.
type Calls = BTreeMap<String, u64>;

/// Long enough to see several times what comes by the clock, such as a router's probes.
const IDLE: Duration = Duration::from_secs(2);
/// Fewer than so many per request are noise of what comes by the clock.
const NOISE: f64 = 0.05;
const LONGEST_TEXT: usize = 90;

/// Per request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// Commands that a client sent to Redis.
    pub(crate) commands: BTreeMap<String, f64>,
    /// Commands that ran inside the scripts among them.
    pub(crate) inside: BTreeMap<String, f64>,
    /// Statements about sessions, and those around them such as `begin` and `commit`.
    pub(crate) statements: BTreeMap<String, f64>,
    /// Other statements that requests cause.
    pub(crate) beside: BTreeMap<String, f64>,
}

/// The servers' own counters, and what they count while nobody asks.
pub(crate) struct Counters<'a> {
    redis: &'a redis::Cluster,
    postgres: Client,
    /// Per second.
    idle: BTreeMap<String, f64>,
}

#[derive(Debug)]
pub(crate) struct Totals {
    at: Instant,
    redis: Calls,
    postgres: Calls,
}

impl<'a> Counters<'a> {
    /// Everything that asks by the clock has to run already.
    pub(crate) async fn start(
        redis: &'a redis::Cluster,
        postgres: &postgres::Cluster,
    ) -> Outcome<Self> {
        let client = postgres.nodes[0].client().await?;
        client
            .batch_execute("create extension if not exists pg_stat_statements")
            .await?;
        let mut counters = Self {
            redis,
            postgres: client,
            idle: BTreeMap::new(),
        };
        let before = counters.read().await?;
        tokio::time::sleep(IDLE).await;
        let after = counters.read().await?;
        let seconds = (after.at - before.at).as_secs_f64();
        counters.idle = difference(&before.postgres, &after.postgres)
            .map(|(text, calls)| (text, calls / seconds))
            .collect();
        Ok(counters)
    }

    pub(crate) async fn read(&self) -> Outcome<Totals> {
        let mut info = ::redis::cmd("INFO");
        info.arg("commandstats");
        let text: String = self.redis.nodes[0].command(&info).await?;
        let sql = "select query, sum(calls)::bigint from pg_stat_statements \
                   where query not like '%pg_stat_statements%' group by query";
        let rows = self.postgres.query(sql, &[]).await?;
        let postgres = rows
            .iter()
            .map(|row| Outcome::Ok((row.get(0), u64::try_from(row.get::<_, i64>(1))?)));
        Ok(Totals {
            at: Instant::now(),
            redis: commands(&text),
            postgres: postgres.collect::<Outcome<_>>()?,
        })
    }

    /// What so many requests caused.
    pub(crate) fn between(&self, before: &Totals, after: &Totals, requests: usize) -> Counts {
        let requests = requests as f64;
        let seconds = (after.at - before.at).as_secs_f64();
        let mut counts = Counts::default();
        let redis: BTreeMap<_, _> = difference(&before.redis, &after.redis).collect();
        let scripts = redis.keys().any(|name| is_script(name));
        for (name, calls) in redis {
            // Of these stores, those that send scripts send little else, which the scripts do not use.
            let sent = !scripts || is_script(&name) || matches!(&*name, "unlink" | "wait");
            let counted = if sent {
                &mut counts.commands
            } else {
                &mut counts.inside
            };
            counted.insert(name, calls / requests);
        }
        for (text, calls) in difference(&before.postgres, &after.postgres) {
            let by_clock = self.idle.get(&text).copied().unwrap_or_default() * seconds;
            let calls = (calls - by_clock) / requests;
            if calls < NOISE {
                continue;
            }
            let counted = if is_of_sessions(&text) {
                &mut counts.statements
            } else {
                &mut counts.beside
            };
            *counted.entry(shortened(&text)).or_default() += calls;
        }
        counts
    }
}

pub(crate) fn sum(counts: &BTreeMap<String, f64>) -> f64 {
    // Of nothing that is 0.0, where `sum` has -0.0.
    counts.values().fold(0.0, |sum, each| sum + each)
}

fn difference(before: &Calls, after: &Calls) -> impl Iterator<Item = (String, f64)> {
    let new = |(name, calls): (&String, &u64)| {
        let calls = calls - before.get(name).copied().unwrap_or(0).min(*calls);
        (calls > 0).then(|| (name.clone(), calls as f64))
    };
    after.iter().filter_map(new).collect::<Vec<_>>().into_iter()
}

/// What clients and scripts asked for, without what connections and those who look at the server do.
fn commands(info: &str) -> Calls {
    let lines = info.lines().filter_map(|line| {
        let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = stats.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), calls))
    });
    lines.filter(|(name, _)| !is_of_connections(name)).collect()
}

fn is_of_connections(name: &str) -> bool {
    let command = name.split('|').next().unwrap_or_default();
    matches!(
        command,
        "info"
            | "ping"
            | "role"
            | "hello"
            | "auth"
            | "select"
            | "client"
            | "config"
            | "script"
            | "command"
    )
}

fn is_script(name: &str) -> bool {
    matches!(name, "evalsha" | "eval" | "fcall")
}

fn is_of_sessions(text: &str) -> bool {
    let text = text.trim_start().to_ascii_lowercase();
    let around = ["begin", "start transaction", "commit", "rollback", "set "];
    text.contains("ha_session")
        || text.contains("tower_sessions")
        || around.iter().any(|word| text.starts_with(word))
}

/// On one line, and not longer than a line.
fn shortened(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(LONGEST_TEXT).collect()
}
