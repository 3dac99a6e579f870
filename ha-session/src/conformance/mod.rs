//! Whether a store keeps the contract of [`Store`]: the laws, each as a check that any store can run, also one of your own.
//!
//! A store that passes merges what concurrent requests write, never brings back what ended, rotates an id once, keeps both
//! limits of an [`Expiry`] on its own clock, refuses what is too large and what conflicts, and does a commit
//! whose caller went away as a whole or not at all. The first law compares it with [`MemoryStore`](crate::MemoryStore) over random
//! steps, printed with their seed.
//!
//! What no suite can see from outside: whether an *outage* is answered as unknown, and what survives a crash. Break your
//! servers for that; this crate's own stores have tests that do.
//!
//! ```
//! use ha_session::{MemoryStore, conformance::Conformance};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ha_session::conformance::Violation> {
//! Conformance::new(MemoryStore::new()).seed(7).steps(200).run().await?;
//! # Ok(()) }
//! ```
//!
//! The store must be up and may hold other sessions. The suite leaves some hundred of its own, which expire within ten minutes.

mod laws;
mod model;

use std::fmt;
use std::time::Duration;

use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::Principal;
use crate::record::{Patch, Record, Version};
use crate::store::{Commit, Load, Outcome, Store, StoreError};

const MAX_BYTES: usize = 400;

/// A promise of [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// The same random steps have the same outcomes as with the memory store.
    SameAsModel,
    /// Concurrent first commits of one key lead to one session that has what each of them wrote.
    CreateOnce,
    /// Concurrent commits of different names are all there afterwards.
    Merge,
    /// A session that was ended, before or among concurrent commits, never comes back.
    GoneStaysGone,
    /// Of concurrent rotations of one id exactly one wins, the old id takes no writes, and shows nothing of what follows.
    RotateOnce,
    /// A commit that names the versions it saw is refused when somebody else changed them since.
    Conflict,
    /// A principal's sessions are listed; one that is revoked is gone, and with all of them everything that was claimed before. Not
    /// checked where the store says that it keeps no principals.
    Principals,
    /// A commit that would make the session too large is refused and stores nothing.
    Limit,
    /// Each commit has a higher version than the one before.
    VersionsGrow,
    /// A commit that is dropped half-way is stored as a whole or not at all.
    WholeOrNothing,
    /// A session ends after being idle, and in any case after its whole life.
    Expiry,
}

impl Law {
    /// All of them, in the order in which [`Conformance::run`] checks them.
    pub const ALL: [Self; 11] = [
        Self::SameAsModel,
        Self::CreateOnce,
        Self::Merge,
        Self::GoneStaysGone,
        Self::RotateOnce,
        Self::Conflict,
        Self::Principals,
        Self::Limit,
        Self::VersionsGrow,
        Self::WholeOrNothing,
        Self::Expiry,
    ];
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameAsModel => "same outcomes as the memory store",
            Self::CreateOnce => "a session is created once",
            Self::Merge => "changes of different names merge",
            Self::GoneStaysGone => "gone stays gone",
            Self::RotateOnce => "an id is rotated once",
            Self::Conflict => "conflicts are refused",
            Self::Principals => "revoked is gone",
            Self::Limit => "limits are kept",
            Self::VersionsGrow => "versions grow",
            Self::WholeOrNothing => "a commit is whole or nothing",
            Self::Expiry => "both limits of time are kept",
        })
    }
}

/// A law that a store broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store breaks \"{law}\" (seed {seed}, {at}): expected {expected}, found {found}")]
#[non_exhaustive]
pub struct Violation {
    /// Which law.
    pub law: Law,
    /// The seed that the same steps can be had with again.
    pub seed: u64,
    /// At which step.
    pub at: String,
    /// What the law says.
    pub expected: String,
    /// What the store did.
    pub found: String,
}

/// Checks a store; see the [module](self).
#[derive(Debug, Clone)]
#[must_use = "nothing is checked before run()"]
pub struct Conformance<S> {
    store: S,
    seed: u64,
    steps: usize,
    concurrency: usize,
    patience: Duration,
}

impl<S: Store> Conformance<S> {
    /// Random steps of the first law by default.
    pub const DEFAULT_STEPS: usize = 400;
    /// Concurrent commits by default.
    pub const DEFAULT_CONCURRENCY: usize = 32;
    /// How long the suite waits for a session to expire by default, beyond its time: a minute, for a loaded machine.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);

    /// Checks `store`.
    pub fn new(store: S) -> Self {
        Self {
            store,
            seed: 0,
            steps: Self::DEFAULT_STEPS,
            concurrency: Self::DEFAULT_CONCURRENCY,
            patience: Self::DEFAULT_PATIENCE,
        }
    }

    /// The seed of the random steps. Default: 0.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// How many random steps the first law takes. Default: [`DEFAULT_STEPS`](Self::DEFAULT_STEPS).
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// How many commits are under way at once. Default: [`DEFAULT_CONCURRENCY`](Self::DEFAULT_CONCURRENCY).
    pub fn concurrency(self, commits: usize) -> Self {
        Self {
            concurrency: commits.max(2),
            ..self
        }
    }

    /// How long to wait for an expiry, beyond its time. Default: [`DEFAULT_PATIENCE`](Self::DEFAULT_PATIENCE).
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Checks every law.
    ///
    /// # Errors
    /// The first [`Violation`].
    ///
    /// # Cancel safety
    /// Safe: what it left in the store expires.
    pub async fn run(&self) -> Result<(), Violation> {
        for law in Law::ALL {
            self.check(law).await?;
        }
        Ok(())
    }

    /// Checks one law.
    ///
    /// # Errors
    /// The [`Violation`].
    ///
    /// # Cancel safety
    /// Safe: what it left in the store expires.
    pub async fn check(&self, law: Law) -> Result<(), Violation> {
        let mut bench = Bench {
            store: &self.store,
            law,
            seed: self.seed,
            rng: fastrand::Rng::with_seed(self.seed),
            // Two runs with one seed on one server must not meet in their keys.
            run: fastrand::u128(..).to_be_bytes(),
        };
        match law {
            Law::SameAsModel => model::same(&mut bench, self.steps).await,
            Law::CreateOnce => laws::create_once(&mut bench, self.concurrency).await,
            Law::Merge => laws::merge(&mut bench, self.concurrency).await,
            Law::GoneStaysGone => laws::gone(&mut bench, self.concurrency).await,
            Law::RotateOnce => laws::rotate(&mut bench, self.concurrency).await,
            Law::Conflict => laws::conflict(&mut bench).await,
            Law::Principals => laws::principals(&mut bench, self.concurrency).await,
            Law::Limit => laws::limit(&mut bench).await,
            Law::VersionsGrow => laws::versions(&mut bench).await,
            Law::WholeOrNothing => laws::whole(&mut bench).await,
            Law::Expiry => laws::expiry(&mut bench, self.patience).await,
        }
    }
}

/// One law under check.
struct Bench<'a, S> {
    store: &'a S,
    law: Law,
    seed: u64,
    rng: fastrand::Rng,
    run: [u8; 16],
}

impl<S: Store> Bench<'_, S> {
    fn key(&mut self, tag: [u8; 2]) -> SessionKey {
        let mut hash = [0; 32];
        let (run, rest) = hash.split_at_mut(self.run.len());
        run.copy_from_slice(&self.run);
        self.rng.fill(rest);
        SessionKey::from_parts(tag, hash)
    }

    fn new_key(&mut self) -> SessionKey {
        let tag = [self.rng.u8(..), self.rng.u8(..)];
        self.key(tag)
    }

    fn broken(
        &self,
        at: impl Into<String>,
        expected: impl Into<String>,
        found: impl fmt::Debug,
    ) -> Violation {
        Violation {
            law: self.law,
            seed: self.seed,
            at: at.into(),
            expected: expected.into(),
            found: format!("{found:?}"),
        }
    }

    /// An answer, since the store is up.
    fn answer<T>(&self, at: &str, answer: Result<T, StoreError>) -> Result<T, Violation> {
        answer.map_err(|error| self.broken(at, "an answer", error))
    }

    async fn commit(&self, at: &str, commit: Commit) -> Result<Outcome, Violation> {
        self.answer(at, self.store.commit(commit).await)
    }

    async fn committed(&self, at: &str, commit: Commit) -> Result<Record, Violation> {
        match self.commit(at, commit).await? {
            Outcome::Committed(record) => Ok(record),
            other => Err(self.broken(at, "a commit", other)),
        }
    }

    async fn load(&self, at: &str, key: SessionKey) -> Result<Option<Record>, Violation> {
        match self.store.load(key, Version::ZERO).await {
            Load::Found(record) => Ok(Some(record)),
            Load::Gone(_) => Ok(None),
            Load::Unknown(error) => Err(self.broken(at, "an answer", error)),
        }
    }

    /// These, as principals of this run alone; nobody where the store keeps none.
    async fn people(&mut self, names: [&str; 3]) -> Result<Vec<Principal>, Violation> {
        let run: String = self.run.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut people = Vec::new();
        for name in names {
            let principal = Principal::new(format!("{name} {run}"));
            people.push(principal.map_err(|error| self.broken(name, "a principal", error))?);
        }
        match self.store.list(people[0].clone()).await {
            Err(StoreError::Unsupported { .. }) => Ok(Vec::new()),
            listed => self.answer("a list", listed).map(|_| people),
        }
    }

    /// A new session that holds `start`.
    async fn session(&mut self) -> Result<SessionKey, Violation> {
        let key = self.new_key();
        let create = Commit::create(key, set("start", b"1"), expiry(), MAX_BYTES);
        self.committed("a new session", create).await?;
        Ok(key)
    }
}

fn expiry() -> Expiry {
    // Both are valid, so that the default is never taken.
    Expiry::new(Duration::from_secs(60), Duration::from_secs(600)).unwrap_or_default()
}

fn set(name: &str, bytes: &'static [u8]) -> Patch {
    let mut patch = Patch::new();
    patch.set(name, bytes);
    patch
}
