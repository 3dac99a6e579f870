//! Where sessions live: the contract, and the stores that keep it.

mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(all(feature = "redis", feature = "postgres"))]
mod tiered;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use self::memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use self::postgres::{Cleaner, MigrateError, Pace, PostgresStore};
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "journal")]
pub use self::tiered::{Journal, JournalError, JournalStatus};
#[cfg(all(feature = "redis", feature = "postgres"))]
pub use self::tiered::{Level, Tiered};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Claim, Principal, SessionInfo};
use crate::record::{FORMAT, Patch, Record, Version};

#[cfg(all(feature = "fuzzing", feature = "postgres"))]
pub(crate) use self::postgres::fuzz as fuzz_postgres;
#[cfg(all(feature = "fuzzing", feature = "redis"))]
pub(crate) use self::redis::fuzz as fuzz_redis;
#[cfg(all(feature = "fuzzing", feature = "journal"))]
pub(crate) use self::tiered::fuzz as fuzz_journal;

/// How long a rotated id still answers reads, with the values from before the rotation: 10 s, enough for requests that
/// were under way.
pub const ROTATION_GRACE: Duration = Duration::from_secs(10);

/// The most sessions that [`Store::list`] returns: 100, more than anybody has in use.
pub const MAX_LISTED: usize = 100;

/// What a store knows of a session.
#[derive(Debug)]
pub enum Load {
    /// It exists.
    Found(Record),
    /// It does not exist any more, for certain.
    Gone(Gone),
    /// The store cannot say. This is not "gone".
    Unknown(StoreError),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// In which way.
    pub ending: Ending,
    /// How long ago, on the store's clock, where it is still known.
    pub ago: Option<Duration>,
}

impl Gone {
    /// The store holds nothing under this key, not even how it ended.
    pub const MISSING: Self = Self {
        ending: Ending::Missing,
        ago: None,
    };
}

impl Gone {
    /// Whether this is the last word wherever it is seen: what else may be the state of before.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.ending, Ending::Destroyed | Ending::Rotated)
    }
}

/// In which way a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It was destroyed.
    Destroyed,
    /// It went on under another id and the grace is over.
    Rotated,
    /// All sessions of its principal were revoked.
    Revoked,
    /// It was idle for too long or too old.
    Expired,
    /// Nothing is known under this key; stores remember endings for longer than requests last.
    Missing,
}

/// What to write, as one atomic step.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Commit {
    /// The session.
    pub key: SessionKey,
    /// Whether this commit starts the session. If not, a session that is gone stays gone.
    pub create: bool,
    /// What changed.
    pub patch: Patch,
    /// The key that takes over in the same step, if the id rotates. Its [`SessionKey::tag`] is that of
    /// [`key`](Self::key), and with a [`claim`](Self::claim) the principal's.
    pub rotate_to: Option<SessionKey>,
    /// Whose the session becomes in the same step. Without it, it stays whose it was. [`key_after`](Self::key_after) must
    /// have the principal's [`tag`](Principal::tag) then.
    pub claim: Option<Claim>,
    /// How long ago the request began, on its own clock. A [`claim`](Self::claim) is refused with [`Outcome::Overtaken`] when all
    /// sessions of its principal were revoked since. `None`: it is not asked.
    pub began_ago: Option<Duration>,
    /// The epoch that the request drew itself: a revocation of its own does not overtake it. Zero for none.
    pub knows: u64,
    /// For each changed name the version that the request saw (zero for none), if a name that somebody else changed
    /// since is to refuse the commit. `None`: the last writer of a name wins.
    pub expected: Option<BTreeMap<String, Version>>,
    /// Those of the [`expected`](Self::expected) names whose change is dropped where somebody else changed them since, instead of
    /// refusing the commit: the first writer of such a name wins.
    pub yields: BTreeSet<String>,
    /// How long the session lives.
    pub expiry: Expiry,
    /// The most bytes that the names and values may have afterwards.
    pub max_bytes: usize,
}

impl Commit {
    /// Starts a session.
    #[must_use]
    pub fn create(key: SessionKey, patch: Patch, expiry: Expiry, max_bytes: usize) -> Self {
        Self {
            key,
            create: true,
            patch,
            rotate_to: None,
            claim: None,
            began_ago: None,
            knows: 0,
            expected: None,
            yields: BTreeSet::new(),
            expiry,
            max_bytes,
        }
    }

    /// Changes a session.
    #[must_use]
    pub fn update(key: SessionKey, patch: Patch, expiry: Expiry, max_bytes: usize) -> Self {
        Self {
            create: false,
            ..Self::create(key, patch, expiry, max_bytes)
        }
    }

    /// The key under which the session is found after the commit.
    #[must_use]
    pub fn key_after(&self) -> SessionKey {
        self.rotate_to.unwrap_or(self.key)
    }
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored; this is the whole session now, with what others wrote.
    Committed(Record),
    /// The session is gone; nothing was stored.
    Gone(Gone),
    /// The id was rotated away a moment ago; nothing was stored.
    Superseded,
    /// All sessions of whom it was to be claimed for were revoked since the request began; nothing was stored.
    Overtaken,
    /// Somebody else changed these names since; nothing was stored.
    Conflict {
        /// The names.
        keys: Vec<String>,
    },
    /// The session would have this many bytes; nothing was stored.
    TooLarge {
        /// Names and values together.
        bytes: usize,
    },
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store was not reached, or refused before doing anything. Nothing changed.
    #[error("{store} is not available")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store was asked, but its answer never came. A write may be stored or not.
    #[error("{store} did not answer")]
    NoAnswer {
        /// Which store.
        store: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store did not answer within this time. A write may be stored or not.
    #[error("the session store did not answer within {after:?}")]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The store has done it, but too few replicas said in time that they have it too. A failover may lose it.
    #[error("only {got} of {wanted} replicas have confirmed the write")]
    NotReplicated {
        /// How many were asked for.
        wanted: u32,
        /// How many have confirmed it.
        got: u32,
    },
    /// The session was written in a format that this version does not know, most likely by a newer one. Nothing
    /// changed.
    #[error("stored session has format {found}, this version reads up to {FORMAT}")]
    Format {
        /// The format found.
        found: u64,
    },
    /// What is stored is not a session. Nothing changed.
    #[error("{store} holds something that is not a session: {what}")]
    Corrupt {
        /// Which store.
        store: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The store answered, but only with a state older than what this client was already told. Nothing changed.
    #[error("{store} only has version {found}, the client was told version {floor}")]
    Stale {
        /// Which store.
        store: &'static str,
        /// The version found.
        found: Version,
        /// The version that the client knows of.
        floor: Version,
    },
    /// The store cannot do this at all. Nothing changed.
    #[error("this session store cannot {what}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// The store holds as many sessions as it may. Nothing changed.
    #[error("the store already holds {max} sessions")]
    Full {
        /// The limit.
        max: usize,
    },
}

impl StoreError {
    /// Whether a write that ended with this error may be stored all the same.
    #[must_use]
    pub fn may_have_changed(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { .. } | Self::Timeout { .. } | Self::NotReplicated { .. }
        )
    }
}

/// Keeps sessions.
///
/// Whoever implements it promises:
/// - every method is one atomic step: dropped, timed out or failed half-way it has happened or not, never in part;
/// - a key that was destroyed or rotated away never comes back: [`commit`](Store::commit) without `create` on a key that
///   is gone answers [`Outcome::Gone`];
/// - commits of the same session are applied one after the other, each to the result of the one before, so that
///   changes of different names merge;
/// - "unknown" is never answered as "gone";
/// - once [`revoke_all`](Store::revoke_all) is confirmed, no session that was claimed before it is found or takes a commit, and every
///   claim after it says in [`Owner::revoked_ago`](crate::Owner::revoked_ago) how long ago it was.
pub trait Store: Send + Sync + 'static {
    /// Reads a session. `floor` is the newest version that this client was told: an older state is not an answer.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn load(&self, key: SessionKey, floor: Version) -> impl Future<Output = Load> + Send;

    /// Applies a patch, and the rotation if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not confirm the commit.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the commit happens as a whole or not at all.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Outcome, StoreError>> + Send;

    /// Ends a session for good. Ending what is gone already is fine. A key that was rotated away and still
    /// [answers](ROTATION_GRACE) ends the session that went on as well.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not confirm it.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the session is ended or not.
    fn destroy(&self, key: SessionKey) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Starts the idle window anew. Touching what is gone changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not confirm it.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the window is extended or not.
    fn touch(
        &self,
        key: SessionKey,
        expiry: Expiry,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The live sessions of a principal, at most [`MAX_LISTED`], the last used first.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Unsupported`] for a store that keeps no principals.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn list(
        &self,
        principal: Principal,
    ) -> impl Future<Output = Result<Vec<SessionInfo>, StoreError>> + Send {
        let _ = principal;
        async { unsupported("list sessions") }
    }

    /// Ends a session as [`destroy`](Store::destroy) does if it is one of the principal's, and says whether it was.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not confirm it; [`StoreError::Unsupported`] for a store that keeps no
    /// principals.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the session is ended or not.
    fn revoke(
        &self,
        principal: Principal,
        key: SessionKey,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (principal, key);
        async { unsupported("revoke sessions") }
    }

    /// Ends every session that was claimed for a principal until now, but `keep`, in one step that takes the same time however
    /// many there are. `keep` is one of the principal's sessions, or one that was rotated to it a moment ago. Returns the epoch that it drew: sessions of an earlier one are gone.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not confirm it; [`StoreError::Unsupported`] for a store that keeps no
    /// principals.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, all are ended or none.
    fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let _ = (principal, keep);
        async { unsupported("revoke sessions") }
    }
}

fn unsupported<T>(what: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Unsupported { what })
}

impl<S: Store> Store for Arc<S> {
    fn load(&self, key: SessionKey, floor: Version) -> impl Future<Output = Load> + Send {
        (**self).load(key, floor)
    }

    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Outcome, StoreError>> + Send {
        (**self).commit(commit)
    }

    fn destroy(&self, key: SessionKey) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).destroy(key)
    }

    fn touch(
        &self,
        key: SessionKey,
        expiry: Expiry,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).touch(key, expiry)
    }

    fn list(
        &self,
        principal: Principal,
    ) -> impl Future<Output = Result<Vec<SessionInfo>, StoreError>> + Send {
        (**self).list(principal)
    }

    fn revoke(
        &self,
        principal: Principal,
        key: SessionKey,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        (**self).revoke(principal, key)
    }

    fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        (**self).revoke_all(principal, keep)
    }
}

/// A [`Store`] of whatever type, so that handlers need not name it.
pub(crate) trait AnyStore: Send + Sync {
    fn load(&self, key: SessionKey, floor: Version) -> BoxFuture<'_, Load>;
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome, StoreError>>;
    fn destroy(&self, key: SessionKey) -> BoxFuture<'_, Result<(), StoreError>>;
    fn touch(&self, key: SessionKey, expiry: Expiry) -> BoxFuture<'_, Result<(), StoreError>>;
    fn list(&self, principal: Principal) -> BoxFuture<'_, Result<Vec<SessionInfo>, StoreError>>;
    fn revoke(
        &self,
        principal: Principal,
        key: SessionKey,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;
    fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> BoxFuture<'_, Result<u64, StoreError>>;
}

impl<S: Store> AnyStore for S {
    fn load(&self, key: SessionKey, floor: Version) -> BoxFuture<'_, Load> {
        Box::pin(Store::load(self, key, floor))
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(Store::commit(self, commit))
    }

    fn destroy(&self, key: SessionKey) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Store::destroy(self, key))
    }

    fn touch(&self, key: SessionKey, expiry: Expiry) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Store::touch(self, key, expiry))
    }

    fn list(&self, principal: Principal) -> BoxFuture<'_, Result<Vec<SessionInfo>, StoreError>> {
        Box::pin(Store::list(self, principal))
    }

    fn revoke(
        &self,
        principal: Principal,
        key: SessionKey,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(Store::revoke(self, principal, key))
    }

    fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(Store::revoke_all(self, principal, keep))
    }
}
