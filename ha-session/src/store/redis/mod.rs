//! Sessions in Redis: one hash per session, one script per step.

#[cfg(feature = "postgres")]
mod copies;
mod reply;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Script, ScriptInvocation};
use ha_db::redis::{Connection, Error};
use tokio::time::Instant;

use self::reply::Reply;
use crate::engine::{self, TOMBSTONE_MS, millis};
use crate::error::ConfigError;
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Principal, SessionInfo};
use crate::record::{Change, Patch, Version};
use crate::store::{Commit, Gone, Load, MAX_LISTED, Outcome, ROTATION_GRACE, Store, StoreError};

#[cfg(feature = "journal")]
pub(crate) use self::copies::{Ahead, MARK_MS};
#[cfg(feature = "postgres")]
pub(crate) use self::copies::{Copies, Copy};
use self::reply::NAME;
pub(crate) use self::reply::Stored;

/// How many rotations are followed to the session that goes on; more than anybody makes within the grace.
const MAX_HOPS: usize = 16;
/// How often a session that is being changed is tried to be taken to another slot.
const MAX_TRIES: usize = 8;

/// Sessions in Redis, through a connection that follows the master.
///
/// Each session is one hash under `prefix:{tag}:sha256(id)` and each step is one script, so that it is atomic and takes
/// one round trip. All time is the server's. A session and its successors share the tag, so that a rotation stays within
/// one slot of a Redis Cluster.
///
/// # What it promises
/// What [`Store`] asks for, as long as Redis keeps its data. Redis replicates asynchronously: a failover can lose commits that
/// were acknowledged a moment before, also that of a sign-out, and a flush loses everything; sessions that are lost
/// look like sessions that never were. Where that is not good enough, put it in front of PostgreSQL with
/// `Tiered`.
#[derive(Clone)]
pub struct RedisStore {
    connection: Connection,
    prefix: Arc<str>,
    scripts: Arc<Scripts>,
    /// How many replicas have to confirm a write.
    replicas: u32,
}

struct Scripts {
    load: Script,
    commit: Script,
    destroy: Script,
    touch: Script,
    supersede: Script,
    list: Script,
    revoke_all: Script,
}

/// A script after the rules that all of them share.
fn script(body: &str) -> Script {
    Script::new(&[include_str!("prelude.lua"), body].concat())
}

impl RedisStore {
    /// What keys begin with by default.
    pub const DEFAULT_PREFIX: &str = "ha:session";
    /// How long [replicas](Self::replicated) may take to confirm a write, one second.
    pub const REPLICATION_WAIT: Duration = Duration::from_secs(1);
    /// How long waiting for them may hold up other commands at a time.
    const REPLICATION_SLICE: Duration = Duration::from_millis(10);

    /// A store on this connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            prefix: Self::DEFAULT_PREFIX.into(),
            replicas: 0,
            scripts: Arc::new(Scripts {
                load: script(include_str!("load.lua")),
                commit: script(include_str!("commit.lua")),
                destroy: script(include_str!("destroy.lua")),
                touch: script(include_str!("touch.lua")),
                supersede: script(include_str!("supersede.lua")),
                list: script(include_str!("list.lua")),
                revoke_all: script(include_str!("revoke_all.lua")),
            }),
        }
    }

    /// The same store with other keys, for services that share a Redis. Default:
    /// [`DEFAULT_PREFIX`](Self::DEFAULT_PREFIX).
    ///
    /// # Errors
    /// [`ConfigError::KeyPrefix`] when it is empty or holds a brace.
    pub fn prefix(self, prefix: &str) -> Result<Self, ConfigError> {
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(ConfigError::KeyPrefix {
                prefix: prefix.to_owned(),
            });
        }
        Ok(Self {
            prefix: prefix.into(),
            ..self
        })
    }

    /// The same store, which acknowledges a write once `replicas` replicas have confirmed it within
    /// [`REPLICATION_WAIT`](Self::REPLICATION_WAIT), and otherwise says [`StoreError::NotReplicated`]. Default: 0.
    ///
    /// With all replicas asked for, a failover loses nothing that was acknowledged, and writes fail while one of them is away.
    /// With fewer, the new master may be one that was not asked. Waiting holds up the connection for some milliseconds at a
    /// time: give the store one of its own. Not for a Redis Cluster.
    #[must_use]
    pub fn replicated(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    fn key(&self, key: &SessionKey) -> String {
        format!("{}{key}", self.base(key.tag()))
    }

    /// What all keys of one slot tag begin with.
    fn base(&self, [high, low]: [u8; 2]) -> String {
        format!("{}:{{{high:02x}{low:02x}}}:", self.prefix)
    }

    async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Reply, StoreError> {
        let parts: Vec<Vec<u8>> = self.connection.script(script).await.map_err(store_error)?;
        Reply::parse(parts)
    }

    /// Runs a script that writes, and waits for the replicas that have to confirm it.
    async fn write<T>(
        &self,
        script: &ScriptInvocation<'_>,
        parse: impl FnOnce(Vec<Vec<u8>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.replicas > 0 {
            if !self.connection.status().nodes.is_empty() {
                return Err(StoreError::Unsupported {
                    what: "wait for the replicas of a redis cluster",
                });
            }
            let ready = self.connection.ready(Self::REPLICATION_WAIT).await;
            ready.map_err(store_error)?;
        }
        let connects = self.connection.status().connects;
        let parts: Vec<Vec<u8>> = self.connection.script(script).await.map_err(store_error)?;
        if self.replicas > 0 {
            self.wait_replicated(connects).await?;
        }
        parse(parts)
    }

    /// Waits until the replicas have what was written on the link in use, which has to be the one that it was when
    /// `connects` were counted: on another one there is nothing to wait for, and nothing is known.
    async fn wait_replicated(&self, connects: u64) -> Result<(), StoreError> {
        let wanted = self.replicas;
        let deadline = Instant::now() + Self::REPLICATION_WAIT;
        loop {
            let mut wait = ::redis::cmd("WAIT");
            wait.arg(wanted).arg(millis(Self::REPLICATION_SLICE));
            let got: u32 = match self.connection.run(&wait).await {
                Ok(got) => got,
                Err(error) => return Err(no_answer(error)),
            };
            if self.connection.status().connects != connects {
                return Err(no_answer(
                    "the master changed before its replicas confirmed",
                ));
            }
            if got >= wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(StoreError::NotReplicated { wanted, got });
            }
            tokio::time::sleep(Self::REPLICATION_SLICE).await;
        }
    }

    async fn look(&self, key: SessionKey) -> Result<Reply, StoreError> {
        self.run(&self.scripts.load.key(self.key(&key))).await
    }

    /// Ends a session and what it was rotated to; `missing_too` remembers the end also if it was never here. With a principal
    /// only if it is one of theirs. Returns whether there was something to end.
    async fn end(
        &self,
        key: SessionKey,
        missing_too: bool,
        principal: Option<&Principal>,
    ) -> Result<bool, StoreError> {
        let mut passed = Vec::new();
        let mut at = key;
        let ended = loop {
            let reply = self.end_one(at, missing_too, false, principal).await?;
            let Some(next) = reply.successor()? else {
                break reply.view() == "destroyed";
            };
            if passed.len() >= MAX_HOPS {
                return Err(StoreError::Unavailable {
                    store: NAME,
                    source: "the session was rotated too often to be followed".into(),
                });
            }
            passed.push(at);
            at = next;
        };
        if ended || principal.is_none() {
            for key in passed {
                self.end_one(key, missing_too, true, None).await?;
            }
        }
        Ok(ended)
    }

    async fn end_one(
        &self,
        key: SessionKey,
        missing_too: bool,
        superseded_too: bool,
        principal: Option<&Principal>,
    ) -> Result<Reply, StoreError> {
        let mut call = self.scripts.destroy.key(self.key(&key));
        call.arg(TOMBSTONE_MS)
            .arg(u8::from(missing_too))
            .arg(u8::from(superseded_too))
            .arg(principal.map_or("", Principal::as_str));
        self.write(&call, Reply::parse).await
    }

    /// One step; with `afresh` nothing stays of what is there.
    async fn commit_one(&self, commit: &Commit, afresh: bool) -> Result<Outcome, StoreError> {
        let key = self.key(&commit.key);
        let mut call = self.scripts.commit.key(&key);
        call.key(self.key(&commit.key_after()));
        if let Some(claim) = &commit.claim {
            // In the slot of the key that it is claimed under.
            let base = self.base(claim.principal.tag());
            let name = claim.principal.as_str();
            call.key(format!("{base}r:{name}"))
                .key(format!("{base}l:{name}"));
        }
        let mut sets = Vec::new();
        let mut removes = Vec::new();
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => sets.push((name, bytes)),
                Change::Remove => removes.push(name),
            }
        }
        let none = BTreeMap::new();
        let expected = commit.expected.as_ref().unwrap_or(&none);
        let claim = commit.claim.as_ref();
        let device = claim.and_then(|claim| claim.device.as_deref());
        call.arg(u8::from(commit.create))
            .arg(millis(commit.expiry.idle()))
            .arg(millis(commit.expiry.absolute()))
            .arg(millis(ROTATION_GRACE))
            .arg(commit.max_bytes)
            .arg(TOMBSTONE_MS)
            .arg(sets.len())
            .arg(removes.len())
            .arg(expected.len())
            .arg(claim.map_or("", |claim| claim.principal.as_str()))
            .arg(device.unwrap_or_default())
            .arg(commit.began_ago.map_or(-1, whole_millis))
            .arg(commit.knows)
            .arg(u8::from(afresh));
        for (name, bytes) in sets {
            call.arg(name).arg(&bytes[..]);
        }
        for name in removes {
            call.arg(name);
        }
        for (name, version) in expected {
            call.arg(name)
                .arg(version.get())
                .arg(u8::from(commit.yields.contains(name)));
        }
        self.write(&call, Reply::parse).await?.outcome()
    }

    /// Takes a session to the slot of whom it is claimed for: puts what it will be under its next key, and then ends the old one
    /// if it is still what was put there. Nobody knows the next key before both are done, so that wherever this stops exactly one
    /// key can be used, the old one or the next.
    async fn relocate(&self, commit: Commit, next: SessionKey) -> Result<Outcome, StoreError> {
        for _ in 0..MAX_TRIES {
            let record = match self.look(commit.key).await?.stored()? {
                Stored::Found(record) if record.superseded => return Ok(Outcome::Superseded),
                Stored::Found(record) => record,
                Stored::Gone(gone) => return Ok(Outcome::Gone(gone)),
                Stored::Missing => return Ok(Outcome::Gone(Gone::MISSING)),
            };
            let changes = match engine::admitted(&record.values, &commit) {
                Ok(changes) => changes,
                Err(keys) => return Ok(Outcome::Conflict { keys }),
            };
            let absolute = record.absolute_left.max(Duration::from_secs(1));
            let mut patch = Patch::new();
            for (name, value) in &record.values {
                patch.set(name.as_str(), value.bytes.clone());
            }
            for (name, change) in changes.iter() {
                match change {
                    Change::Set(bytes) => patch.set(name, bytes.clone()),
                    Change::Remove => patch.remove(name),
                }
            }
            let step = Commit {
                claim: commit.claim.clone(),
                began_ago: commit.began_ago,
                knows: commit.knows,
                ..Commit::create(
                    next,
                    patch,
                    commit.expiry.within(absolute),
                    commit.max_bytes,
                )
            };
            // A try before this one may have put there what was removed since.
            let stored = match self.commit_one(&step, true).await? {
                Outcome::Committed(stored) => stored,
                refused => return Ok(refused),
            };
            let [high, low] = next.tag();
            let mut call = self.scripts.supersede.key(self.key(&commit.key));
            call.arg(record.version.get())
                .arg(millis(ROTATION_GRACE))
                .arg(TOMBSTONE_MS)
                .arg(format!("{high:02x}{low:02x}:{next}"));
            let reply = self.write(&call, Reply::parse).await?;
            if reply.view() == "live" {
                return Ok(Outcome::Committed(stored));
            }
            if reply.view() != "changed" {
                self.end_one(next, false, true, None).await?;
                return match reply.stored()? {
                    Stored::Found(_) => Ok(Outcome::Superseded),
                    Stored::Gone(gone) => Ok(Outcome::Gone(gone)),
                    Stored::Missing => Ok(Outcome::Gone(Gone::MISSING)),
                };
            }
        }
        self.end_one(next, false, true, None).await?;
        Err(StoreError::Unavailable {
            store: NAME,
            source: "the session changes too fast to be moved".into(),
        })
    }

    /// Draws an epoch, or takes note of one that was drawn elsewhere.
    async fn draw_epoch(
        &self,
        principal: &Principal,
        keep: Option<SessionKey>,
        least: u64,
    ) -> Result<u64, StoreError> {
        let base = self.base(principal.tag());
        let keep = keep.filter(|key| key.tag() == principal.tag());
        let keep = keep.map(|key| key.to_string()).unwrap_or_default();
        let mut call = self
            .scripts
            .revoke_all
            .key(format!("{base}r:{}", principal.as_str()));
        call.arg(millis(Expiry::MAX_ABSOLUTE) + TOMBSTONE_MS)
            .arg(least)
            .arg(keep)
            .arg(principal.as_str())
            .arg(&base);
        self.write(&call, |parts| reply::epoch(&parts)).await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("connection", &self.connection)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Store for RedisStore {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        match self.look(key).await.and_then(Reply::stored) {
            Ok(Stored::Found(record)) => {
                if record.version < floor {
                    // Nothing newer exists anywhere; the commits in between were lost with an old master.
                    tracing::warn!(
                        found = record.version.get(),
                        told = floor.get(),
                        "redis lost acknowledged session changes"
                    );
                }
                Load::Found(record)
            }
            Ok(Stored::Gone(gone)) => Load::Gone(gone),
            Ok(Stored::Missing) => Load::Gone(Gone::MISSING),
            Err(error) => Load::Unknown(error),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        match commit.rotate_to {
            Some(next) if next.tag() != commit.key.tag() => self.relocate(commit, next).await,
            _ => self.commit_one(&commit, false).await,
        }
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.end(key, false, None).await.map(drop)
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        let mut call = self.scripts.touch.key(self.key(&key));
        call.arg(millis(expiry.idle())).arg(TOMBSTONE_MS);
        self.run(&call).await.map(drop)
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        let base = self.base(principal.tag());
        let mut call = self
            .scripts
            .list
            .key(format!("{base}l:{}", principal.as_str()));
        call.arg(principal.as_str()).arg(&base);
        let parts: Vec<Vec<u8>> = self.connection.script(&call).await.map_err(store_error)?;
        let mut infos = reply::infos(parts, principal.tag())?;
        infos.sort_by_key(|info| (info.used_ago, info.key));
        infos.truncate(MAX_LISTED);
        Ok(infos)
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        self.end(key, false, Some(&principal)).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        self.draw_epoch(&principal, keep, 0).await
    }
}

/// Milliseconds as the scripts read them.
fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(millis(duration)).unwrap_or(i64::MAX)
}

fn no_answer(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::NoAnswer {
        store: NAME,
        source: source.into(),
    }
}

fn store_error(error: Error) -> StoreError {
    let (store, source) = (NAME, Box::new(error));
    // A script that failed half-way is not undone, so only what was never sent is known to have changed nothing.
    if source.is_not_sent() {
        StoreError::Unavailable { store, source }
    } else {
        StoreError::NoAnswer { store, source }
    }
}

/// Reads an answer of a script, its parts cut at the zero bytes.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let parts = || bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    drop(Reply::parse(parts()).and_then(Reply::stored));
    drop(Reply::parse(parts()).and_then(Reply::outcome));
}
