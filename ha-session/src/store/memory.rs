//! Sessions in the memory of one process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::engine::{self, Entry, View};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::record::Version;
use crate::store::{Commit, Gone, Load, Outcome, Store, StoreError};

/// Sessions in the memory of one process: for tests, for development, and for a service that runs once.
///
/// It follows the same rules as the other stores. What it cannot do is outlive its process or be shared by two: behind a
/// balancer with several app servers use a store that they share. Clones share their sessions.
///
/// It holds at most [`DEFAULT_MAX`](Self::DEFAULT_MAX) sessions unless told otherwise. When it is full it forgets the
/// ended ones, and if that is not enough refuses new ones: it never signs somebody out to make room.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    max: usize,
    started: Instant,
    started_ms: u64,
    entries: Mutex<HashMap<SessionKey, Entry>>,
}

impl MemoryStore {
    /// The most sessions by default, 100,000: some 100 MB when each holds 1 kB.
    pub const DEFAULT_MAX: usize = 100_000;

    /// A store for [`DEFAULT_MAX`](Self::DEFAULT_MAX) sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max(Self::DEFAULT_MAX)
    }

    /// A store for `max` sessions.
    #[must_use]
    pub fn with_max(max: usize) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            inner: Arc::new(Inner {
                max,
                started: Instant::now(),
                started_ms: engine::millis(since_epoch),
                entries: Mutex::default(),
            }),
        }
    }

    /// How many sessions it holds, with those that ended a short while ago.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|entries, _| entries.len())
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<SessionKey, Entry>, u64) -> T) -> T {
        let now = self.inner.started_ms + engine::millis(self.inner.started.elapsed());
        let mut entries = self
            .inner
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut entries, now)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("len", &self.len())
            .field("max", &self.inner.max)
            .finish()
    }
}

impl Store for MemoryStore {
    async fn load(&self, key: SessionKey, _floor: Version) -> Load {
        self.with(|entries, now| match entries.get(&key) {
            None => Load::Gone(Gone::MISSING),
            Some(entry) => match entry.view(now) {
                View::Gone(gone) => Load::Gone(gone),
                View::Live | View::Superseded => Load::Found(entry.record(now)),
            },
        })
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let max = self.inner.max;
        self.with(|entries, now| {
            let step = engine::commit(entries.get(&commit.key), &commit, now);
            let added = step
                .writes
                .iter()
                .filter(|(key, _)| !entries.contains_key(key))
                .count();
            if entries.len() + added > max {
                entries.retain(|_, entry| !entry.is_forgettable(now));
            }
            if entries.len() + added > max {
                return Err(StoreError::Full { max });
            }
            entries.extend(step.writes);
            Ok(step.outcome)
        })
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.with(|entries, now| {
            if let Some(entry) = entries.get_mut(&key) {
                entry.destroy(now);
            }
        });
        Ok(())
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.with(|entries, now| {
            if let Some(entry) = entries.get_mut(&key) {
                entry.touch(expiry, now);
            }
        });
        Ok(())
    }
}
