//! Sessions in Redis: one hash per session, one script per step.

#[cfg(feature = "postgres")]
mod copies;
mod reply;

use std::fmt;
use std::sync::Arc;

use ::redis::{Script, ScriptInvocation};
use ha_db::redis::{Connection, Error};

use self::reply::Reply;
use crate::engine::{TOMBSTONE_MS, millis};
use crate::error::ConfigError;
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::record::{Change, Version};
use crate::store::{Commit, Gone, Load, Outcome, ROTATION_GRACE, Store, StoreError};

#[cfg(feature = "postgres")]
pub(crate) use self::copies::{Copies, Copy};
use self::reply::NAME;
pub(crate) use self::reply::Stored;

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
}

struct Scripts {
    load: Script,
    commit: Script,
    destroy: Script,
    touch: Script,
}

/// A script after the rules that all of them share.
fn script(body: &str) -> Script {
    Script::new(&[include_str!("prelude.lua"), body].concat())
}

impl RedisStore {
    /// What keys begin with by default.
    pub const DEFAULT_PREFIX: &str = "ha:session";

    /// A store on this connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            prefix: Self::DEFAULT_PREFIX.into(),
            scripts: Arc::new(Scripts {
                load: script(include_str!("load.lua")),
                commit: script(include_str!("commit.lua")),
                destroy: script(include_str!("destroy.lua")),
                touch: script(include_str!("touch.lua")),
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

    fn key(&self, key: &SessionKey) -> String {
        let [high, low] = key.tag();
        format!("{}:{{{high:02x}{low:02x}}}:{key}", self.prefix)
    }

    async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Reply, StoreError> {
        let parts: Vec<Vec<u8>> = self.connection.script(script).await.map_err(store_error)?;
        Reply::parse(parts)
    }

    async fn look(&self, key: SessionKey) -> Result<Reply, StoreError> {
        self.run(&self.scripts.load.key(self.key(&key))).await
    }

    /// Ends a session; `missing_too` remembers the end also if it was never here.
    async fn end(&self, key: SessionKey, missing_too: bool) -> Result<(), StoreError> {
        let mut call = self.scripts.destroy.key(self.key(&key));
        call.arg(TOMBSTONE_MS).arg(u8::from(missing_too));
        self.run(&call).await.map(drop)
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
        let key = self.key(&commit.key);
        let mut call = self.scripts.commit.key(&key);
        call.key(self.key(&commit.key_after()));
        let mut sets = Vec::new();
        let mut removes = Vec::new();
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => sets.push((name, bytes)),
                Change::Remove => removes.push(name),
            }
        }
        let expected = commit.expected.unwrap_or_default();
        call.arg(u8::from(commit.create))
            .arg(millis(commit.expiry.idle()))
            .arg(millis(commit.expiry.absolute()))
            .arg(millis(ROTATION_GRACE))
            .arg(commit.max_bytes)
            .arg(TOMBSTONE_MS)
            .arg(sets.len())
            .arg(removes.len())
            .arg(expected.len());
        for (name, bytes) in sets {
            call.arg(name).arg(&bytes[..]);
        }
        for name in removes {
            call.arg(name);
        }
        for (name, version) in &expected {
            call.arg(name).arg(version.get());
        }
        self.run(&call).await?.outcome()
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.end(key, false).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        let mut call = self.scripts.touch.key(self.key(&key));
        call.arg(millis(expiry.idle())).arg(TOMBSTONE_MS);
        self.run(&call).await.map(drop)
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
