//! Sessions in the memory of one process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::engine::{self, Entry, Owned, Revocation, View};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Principal, SessionInfo};
use crate::record::Version;
use crate::store::{Commit, Gone, Load, MAX_LISTED, Outcome, Store, StoreError};

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
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<SessionKey, Entry>,
    revocations: HashMap<Principal, Revocation>,
}

impl Book {
    fn view(&self, entry: &Entry, now: u64) -> View {
        entry.view(now, &|principal| self.revocations.get(principal).copied())
    }

    /// The key itself, or the one under which its session goes on.
    fn resolve(&self, key: SessionKey, now: u64) -> SessionKey {
        let mut at = key;
        // A rotation never leads back, so that this ends.
        while let Some(next) = self.entries.get(&at).and_then(|entry| entry.successor(now)) {
            at = next;
        }
        at
    }

    fn destroy(&mut self, key: SessionKey, now: u64) {
        for key in [self.resolve(key, now), key] {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.destroy(now);
            }
        }
    }

    /// The live session under this key, if it is one of the principal's.
    fn of(&mut self, principal: &Principal, key: SessionKey, now: u64) -> Option<&mut Owned> {
        let entry = self.entries.get(&key)?;
        if self.view(entry, now) != View::Live {
            return None;
        }
        let owned = self.entries.get_mut(&key)?.owned.as_mut()?;
        (owned.principal == *principal).then_some(owned)
    }

    /// Forgets what nobody can need any more.
    fn tidy(&mut self, now: u64) {
        self.entries.retain(|_, entry| !entry.is_forgettable(now));
        let longest = engine::millis(Expiry::MAX_ABSOLUTE);
        self.revocations
            .retain(|_, revocation| now < revocation.at.saturating_add(longest));
    }
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
        // This store's own clock, which runs on by itself from here.
        #[allow(clippy::disallowed_methods)]
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            inner: Arc::new(Inner {
                max,
                started: Instant::now(),
                started_ms: engine::millis(since_epoch),
                book: Mutex::default(),
            }),
        }
    }

    /// How many sessions it holds, with those that ended a short while ago.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|book, _| book.entries.len())
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, act: impl FnOnce(&mut Book, u64) -> T) -> T {
        let now = self.inner.started_ms + engine::millis(self.inner.started.elapsed());
        let mut book = self
            .inner
            .book
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut book, now)
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
        self.with(|book, now| {
            let revocations = &|principal: &Principal| book.revocations.get(principal).copied();
            match book.entries.get(&key) {
                None => Load::Gone(Gone::MISSING),
                Some(entry) => match entry.view(now, revocations) {
                    View::Gone(gone) => Load::Gone(gone),
                    View::Live | View::Superseded => Load::Found(entry.record(now, revocations)),
                },
            }
        })
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let max = self.inner.max;
        self.with(|book, now| {
            let revocations = &|principal: &Principal| book.revocations.get(principal).copied();
            let step = engine::commit(book.entries.get(&commit.key), &commit, revocations, now);
            let added = step
                .writes
                .iter()
                .filter(|(key, _)| !book.entries.contains_key(key))
                .count();
            if book.entries.len() + added > max {
                book.tidy(now);
            }
            if book.entries.len() + added > max {
                return Err(StoreError::Full { max });
            }
            book.entries.extend(step.writes);
            Ok(step.outcome)
        })
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.with(|book, now| book.destroy(key, now));
        Ok(())
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.with(|book, now| {
            let Book {
                entries,
                revocations,
            } = book;
            if let Some(entry) = entries.get_mut(&key) {
                entry.touch(expiry, now, &|principal| {
                    revocations.get(principal).copied()
                });
            }
        });
        Ok(())
    }

    /// Looks at every session that it holds.
    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.with(|book, now| {
            let mut found: Vec<_> = book
                .entries
                .iter()
                .filter_map(|(key, entry)| {
                    let owned = entry.owned.as_ref()?;
                    let listed =
                        owned.principal == principal && book.view(entry, now) == View::Live;
                    listed.then_some((entry.used, key, owned))
                })
                .collect();
            found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
            found.truncate(MAX_LISTED);
            let ago = |at: u64| Duration::from_millis(now.saturating_sub(at));
            let infos = found.into_iter().map(|(used, key, owned)| {
                SessionInfo::new(*key, owned.device.clone(), ago(owned.claimed), ago(used))
            });
            Ok(infos.collect())
        })
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        self.with(|book, now| {
            let at = book.resolve(key, now);
            let known = book.of(&principal, at, now).is_some();
            if known {
                book.destroy(key, now);
            }
            Ok(known)
        })
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        let max = self.inner.max;
        self.with(|book, now| {
            if book.revocations.len() >= max && !book.revocations.contains_key(&principal) {
                book.tidy(now);
                if book.revocations.len() >= max {
                    return Err(StoreError::Full { max });
                }
            }
            let last = book.revocations.get(&principal).copied();
            let next = Revocation::next(last, now);
            let keep = keep.map(|key| book.resolve(key, now));
            if let Some(owned) = keep.and_then(|key| book.of(&principal, key, now)) {
                owned.epoch = next.epoch;
            }
            book.revocations.insert(principal, next);
            Ok(next.epoch)
        })
    }
}
