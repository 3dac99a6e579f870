//! Redis in front of PostgreSQL.

mod inner;
#[cfg(feature = "journal")]
mod journal;
mod pause;
mod tell;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

#[cfg(feature = "journal")]
pub(crate) use self::journal::Changes;
#[cfg(feature = "journal")]
use self::journal::Replayer;
#[cfg(all(feature = "fuzzing", feature = "journal"))]
pub(crate) use self::journal::fuzz;
#[cfg(feature = "journal")]
pub use self::journal::{Journal, JournalError, JournalStatus};
use self::pause::Pause;
use self::tell::Ended;
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Principal, SessionInfo};
use crate::record::Version;
use crate::store::redis::Copies;
use crate::store::{Commit, Load, Outcome, PostgresStore, RedisStore, Store, StoreError};

/// What an acknowledged commit means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Level {
    /// Redis has it. Fast, and lost with what Redis loses: a failover can drop the last moments, a flush drops all.
    /// PostgreSQL is not used.
    Cache,
    /// So many replicas of Redis have it too. With all of them asked for, a failover loses nothing that was acknowledged, and
    /// writes fail while one of them is away; with fewer, the new master may be one that was not asked. A flush drops all.
    /// PostgreSQL is not used. See [`RedisStore::replicated`].
    Replicated(u32),
    /// PostgreSQL has committed it, and Redis has a copy if it could be reached. The default.
    #[default]
    Durable,
    /// As [`Durable`](Self::Durable); but while PostgreSQL cannot take a write, Redis and a file on this machine's disk, synced, are
    /// enough. See [`Tiered`] for what that promises and what it does not.
    #[cfg(feature = "journal")]
    DurableOrJournal(Journal),
}

/// PostgreSQL holds the truth, Redis answers reads.
///
/// # What it promises at [`Level::Durable`]
/// - A commit is acknowledged once PostgreSQL has it, whatever Redis does: losing, flushing or failing over Redis loses no
///   acknowledged change and signs nobody out.
/// - A client never reads a state older than it was told. The client carries the newest version that it was told;
///   an older copy in Redis is not used, the read goes through to PostgreSQL and the copy is repaired. The highest version
///   wins.
/// - While PostgreSQL is lost, reads are answered from Redis and commits fail. While both are lost, the state is unknown.
/// - A sign-out, or a rotation, is acknowledged once PostgreSQL has it. It is put into Redis as well, and while Redis cannot be
///   reached that is tried again for a minute.
///
/// # What it promises at [`Level::DurableOrJournal`]
/// As at `Durable` while PostgreSQL takes writes. While it does not, these are acknowledged once Redis has them *and* they are synced to
/// the journal, a bounded file on this machine's disk: changes of values, new sessions that are nobody's, and sign-outs. They survive the
/// end of this process, however it ends, and the loss of Redis; not the loss of this machine's disk together with Redis.
/// - Every app server sees them at once, since Redis has them: a copy with changes that PostgreSQL lacks is marked, and until they are
///   replayed nothing that is read in PostgreSQL replaces it, and its session's changes go to a journal, too.
/// - When PostgreSQL is back they are replayed in order. Each changed name has the version of its change: one that was changed or removed
///   later elsewhere stays as it is, and a session that was ended, rotated or revoked meanwhile stays so.
/// - What decides who somebody is and who was first is for PostgreSQL alone, and fails in the meantime: sign-ins
///   (`Session::set_principal`), rotations, lists and revocations, and commits under another [`OnConflict`](crate::OnConflict) than
///   `LastWriter` that have something to meet.
/// - When the journal is full or cannot be written, the write is refused. A new process that opens it replays what is in it; damaged
///   records are reported, put aside, and cost nothing else.
/// - A commit that is dropped before it is ready goes on to its end: it happens as a whole or not at all.
///
/// Not promised there: where Redis is lost as well before PostgreSQL is back, the state that clients were told of is unknown to all until
/// the journal is replayed (503), for an hour at most; which of two changes of one name is the later one is told by the clocks of the
/// servers of Redis and PostgreSQL where no order is known otherwise; and a session that was begun in an outage is dropped if it is not
/// replayed within a day. All app servers of a service must use this level, or none.
///
/// # What it does not promise
/// - After an outage of PostgreSQL that is longer than nine tenths of the idle limit, sessions that were only read during
///   it have expired there.
/// - A client that sends several writes at once is protected by the version in the answer that it processed last.
/// - The holder of a *copy* of the cookie was not told of a sign-out. If Redis was unreachable then, or lost the sign-out in
///   a failover, it may hold the session as it was before. Such a copy is used for at most [`recheck`](Self::recheck)
///   before PostgreSQL is asked again; only while PostgreSQL cannot be asked either it stays in use, until PostgreSQL is
///   back or the session expires. Set [`trust_during_outage`](Self::trust_during_outage) to bound that too, at the price
///   of answering 503 to everybody once an outage of PostgreSQL is longer.
#[cfg_attr(
    not(feature = "journal"),
    doc = "[`Level::DurableOrJournal`]: crate#features"
)]
#[derive(Clone)]
pub struct Tiered {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Settings {
    level: Level,
    recheck: Duration,
    trust_during_outage: Option<Duration>,
}

struct Inner {
    redis: RedisStore,
    cache: Copies,
    postgres: PostgresStore,
    settings: Settings,
    redis_pause: Pause,
    postgres_pause: Pause,
    burials: Mutex<JoinSet<()>>,
    /// Writes on their way to Redis and the journal.
    #[cfg(feature = "journal")]
    ahead: Mutex<JoinSet<()>>,
    #[cfg(feature = "journal")]
    _replayer: Option<Replayer>,
}

impl Tiered {
    /// How long a copy in Redis is used before PostgreSQL is asked again, 10 s.
    pub const DEFAULT_RECHECK: Duration = Duration::from_secs(10);
    /// How long Redis may take to answer before PostgreSQL is asked instead, 250 ms.
    pub const CACHE_TIMEOUT: Duration = Duration::from_millis(250);

    /// How long PostgreSQL may take to confirm what Redis has already answered, 250 ms.
    const CONFIRM_TIMEOUT: Duration = Duration::from_millis(250);
    /// How long a store that just failed is left alone where there is another way, 500 ms.
    const PAUSE: Duration = Duration::from_millis(500);
    const BURY_FOR: Duration = Duration::from_secs(60);
    const MAX_BURIALS: usize = 1024;
    /// How long PostgreSQL remembers the end of a session that it may hear of from a journal later: a day.
    #[cfg(feature = "journal")]
    const REMEMBER: Duration = Duration::from_secs(24 * 3600);

    /// Redis in front of PostgreSQL, at [`Level::Durable`].
    #[must_use]
    pub fn new(redis: RedisStore, postgres: PostgresStore) -> Self {
        let settings = Settings {
            level: Level::default(),
            recheck: Self::DEFAULT_RECHECK,
            trust_during_outage: None,
        };
        Self::assemble(redis, postgres, settings)
    }

    fn assemble(redis: RedisStore, postgres: PostgresStore, settings: Settings) -> Self {
        let cache = Copies::new(&redis, Self::CACHE_TIMEOUT);
        #[cfg(feature = "journal")]
        let (postgres, replayer) = match &settings.level {
            Level::DurableOrJournal(journal) => {
                let postgres = postgres.remembering(Self::REMEMBER);
                let (journal, cache) = (journal.clone(), cache.clone());
                let replayer = Replayer::start(journal, postgres.clone(), cache);
                (postgres, Some(replayer))
            }
            _ => (postgres, None),
        };
        Self {
            inner: Arc::new(Inner {
                cache,
                redis: match settings.level {
                    Level::Replicated(replicas) => redis.replicated(replicas),
                    _ => redis,
                },
                postgres,
                settings,
                redis_pause: Pause::new(Self::PAUSE),
                postgres_pause: Pause::new(Self::PAUSE),
                burials: Mutex::default(),
                #[cfg(feature = "journal")]
                ahead: Mutex::default(),
                #[cfg(feature = "journal")]
                _replayer: replayer,
            }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings.clone();
        change(&mut settings);
        let (redis, postgres) = (self.inner.redis.clone(), self.inner.postgres.clone());
        Self::assemble(redis, postgres, settings)
    }

    /// What an acknowledged commit means. Default: [`Level::Durable`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with a level that has a journal: a task replays it for as long as this store lives.
    #[must_use]
    pub fn level(self, level: Level) -> Self {
        self.with(|settings| settings.level = level)
    }

    /// How long a copy in Redis is used before PostgreSQL is asked again: the longest that a sign-out which Redis missed stays
    /// unseen, and one read of PostgreSQL per session in use and per this time. Default:
    /// [`DEFAULT_RECHECK`](Self::DEFAULT_RECHECK). Zero asks every time.
    #[must_use]
    pub fn recheck(self, recheck: Duration) -> Self {
        self.with(|settings| settings.recheck = recheck)
    }

    /// How long a copy in Redis is used while PostgreSQL cannot be asked. Default: until the session expires.
    #[must_use]
    pub fn trust_during_outage(self, limit: Duration) -> Self {
        self.with(|settings| settings.trust_during_outage = Some(limit))
    }

    /// The store that holds the truth.
    #[must_use]
    pub fn postgres(&self) -> &PostgresStore {
        &self.inner.postgres
    }

    fn is_cache_only(&self) -> bool {
        matches!(
            self.inner.settings.level,
            Level::Cache | Level::Replicated(_)
        )
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered")
            .field("level", &self.inner.settings.level)
            .field("recheck", &self.inner.settings.recheck)
            .field("redis", &self.inner.redis)
            .field("postgres", &self.inner.postgres)
            .finish_non_exhaustive()
    }
}

impl Store for Tiered {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        if self.is_cache_only() {
            return self.inner.redis.load(key, floor).await;
        }
        self.inner.load(key, floor).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.commit(commit).await;
        }
        #[cfg(feature = "journal")]
        if let Level::DurableOrJournal(journal) = &self.inner.settings.level {
            return self.inner.commit_or_journal(commit, journal).await;
        }
        let outcome = self.inner.postgres.commit(commit.clone()).await?;
        self.inner.committed(&commit, &outcome).await;
        Ok(outcome)
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.destroy(key).await;
        }
        #[cfg(feature = "journal")]
        if let Level::DurableOrJournal(journal) = &self.inner.settings.level {
            return self.inner.destroy_or_journal(key, journal).await;
        }
        let ended = self.inner.postgres.end(key, None).await?;
        self.inner.ended(key, ended).await;
        Ok(())
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.touch(key, expiry).await;
        }
        let inner = &self.inner;
        if inner.redis_pause.passes() {
            let touched = inner.cache.touch(key, expiry).await;
            inner.cache_answered("touch", &touched);
        }
        if !inner.postgres_pause.passes() {
            return Ok(());
        }
        let after = Self::CONFIRM_TIMEOUT;
        let touch = inner.postgres.touch(key, expiry);
        let result = tokio::time::timeout(after, touch)
            .await
            .unwrap_or(Err(StoreError::Timeout { after }));
        match &result {
            Ok(()) => inner.postgres_pause.succeeded(),
            Err(_) => inner.postgres_pause.failed(),
        }
        result
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.list(principal).await;
        }
        self.inner.postgres.list(principal).await
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.revoke(principal, key).await;
        }
        let ended = self.inner.postgres.end(key, Some(&principal)).await?;
        let known = !ended.is_empty();
        for key in ended {
            self.inner.bury(key).await;
        }
        Ok(known)
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        if self.is_cache_only() {
            return self.inner.redis.revoke_all(principal, keep).await;
        }
        let (epoch, kept) = self.inner.postgres.draw_epoch(&principal, keep).await?;
        if let Some(kept) = kept {
            // Its copy is of the epoch before, and would be passed over until it is repaired.
            let load = self.inner.postgres.load(kept, Version::ZERO).await;
            self.inner.repair(kept, &load).await;
        }
        self.inner.tell(Ended::All(principal, epoch)).await;
        Ok(epoch)
    }
}
