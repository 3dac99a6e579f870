//! The suite for stores: this crate's memory store keeps every law, and a store with one fault breaks the law it should.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_session::conformance::{Conformance, Law};
use ha_session::{
    Commit, Expiry, Load, MemoryStore, Outcome, Patch, Principal, Record, SessionInfo, SessionKey,
    Store, StoreError, Version,
};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Reads all, changes it and writes all back.
    Blob,
    /// A commit to a session that ended starts it anew.
    Resurrects,
    /// A sign-out is acknowledged and does nothing.
    KeepsTheEnded,
    /// A rotation copies.
    Copies,
    /// Who saw what is not looked at.
    NoConflicts,
    NoLimit,
    OneVersion,
    /// A commit is made of two.
    Torn,
    /// A second first commit replaces what the first has made.
    Afresh,
    /// All sessions are revoked one after the other, as they are listed.
    OneByOne,
    /// Only the absolute limit is kept, and that for long.
    NoExpiry,
}

#[derive(Debug, Clone)]
struct Faulty {
    memory: MemoryStore,
    fault: Fault,
    /// How often a key was started anew.
    lives: Arc<Mutex<HashMap<SessionKey, u8>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            memory: MemoryStore::new(),
            fault,
            lives: Arc::default(),
        }
    }

    /// Under which key the memory store has it.
    fn real(&self, key: SessionKey) -> SessionKey {
        let life = self.lives.lock().unwrap().get(&key).copied().unwrap_or(0);
        let mut hash = *key.hash();
        hash[31] ^= life;
        SessionKey::from_parts(key.tag(), hash)
    }

    fn show(&self, mut record: Record) -> Record {
        if self.fault == Fault::OneVersion {
            record.version = Version::new(1);
        }
        record
    }

    async fn record(&self, key: SessionKey) -> Option<Record> {
        match self.memory.load(key, Version::ZERO).await {
            Load::Found(record) => Some(record),
            _ => None,
        }
    }
}

impl Store for Faulty {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        match self.memory.load(self.real(key), floor).await {
            Load::Found(record) => Load::Found(self.show(record)),
            other => other,
        }
    }

    async fn commit(&self, mut commit: Commit) -> Result<Outcome, StoreError> {
        let asked = commit.key;
        commit.key = self.real(asked);
        match self.fault {
            Fault::Afresh if commit.create && self.record(commit.key).await.is_some() => {
                *self.lives.lock().unwrap().entry(asked).or_default() += 1;
                commit.key = self.real(asked);
            }
            Fault::Blob => {
                let before = self.record(commit.key).await;
                tokio::task::yield_now().await;
                let mut whole = Patch::new();
                for (name, value) in before.iter().flat_map(|record| &record.values) {
                    whole.set(name.clone(), value.bytes.clone());
                }
                // What came since is not in the blob, and so it goes.
                let now = self.record(commit.key).await;
                for name in now.iter().flat_map(|record| record.values.keys()) {
                    if whole.get(name).is_none() {
                        whole.remove(name.clone());
                    }
                }
                for (name, change) in commit.patch.iter() {
                    match change {
                        ha_session::Change::Set(bytes) => whole.set(name, bytes.clone()),
                        ha_session::Change::Remove => whole.remove(name),
                    }
                }
                commit.patch = whole;
            }
            Fault::Resurrects => {
                if let Outcome::Gone(_) = self.memory.commit(commit.clone()).await? {
                    *self.lives.lock().unwrap().entry(asked).or_default() += 1;
                    commit.key = self.real(asked);
                    commit.create = true;
                }
            }
            Fault::Copies => {
                if let Some(next) = commit.rotate_to.take() {
                    let Outcome::Committed(record) = self.memory.commit(commit.clone()).await?
                    else {
                        return Ok(Outcome::Superseded);
                    };
                    let mut all = Patch::new();
                    for (name, value) in &record.values {
                        all.set(name.clone(), value.bytes.clone());
                    }
                    commit = Commit::create(next, all, commit.expiry, commit.max_bytes);
                }
            }
            Fault::NoConflicts => commit.expected = None,
            Fault::NoLimit => commit.max_bytes = usize::MAX,
            Fault::Torn if commit.rotate_to.is_none() && commit.expected.is_none() => {
                let half = commit.patch.iter().count() / 2;
                let mut first = Patch::new();
                for (name, change) in commit.patch.iter().take(half) {
                    match change {
                        ha_session::Change::Set(bytes) => first.set(name, bytes.clone()),
                        ha_session::Change::Remove => first.remove(name),
                    }
                }
                if half > 0 && commit.patch.size() < 200 {
                    let mut torn = commit.clone();
                    torn.patch = first;
                    self.memory.commit(torn).await?;
                    tokio::task::yield_now().await;
                }
            }
            Fault::NoExpiry => {
                let long = Duration::from_secs(3600);
                commit.expiry = Expiry::new(long, long).unwrap();
            }
            _ => {}
        }
        Ok(match self.memory.commit(commit).await? {
            Outcome::Committed(record) => Outcome::Committed(self.show(record)),
            other => other,
        })
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        if self.fault == Fault::KeepsTheEnded {
            return Ok(());
        }
        self.memory.destroy(self.real(key)).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        if self.fault == Fault::NoExpiry {
            return Ok(());
        }
        self.memory.touch(self.real(key), expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.memory.list(principal).await
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        self.memory.revoke(principal, self.real(key)).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        if self.fault != Fault::OneByOne {
            return self.memory.revoke_all(principal, keep).await;
        }
        for info in self.memory.list(principal.clone()).await? {
            tokio::task::yield_now().await;
            if Some(info.key) != keep {
                self.memory.revoke(principal.clone(), info.key).await?;
            }
        }
        Ok(0)
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_keeps_every_law() {
    for seed in 0..20 {
        let suite = Conformance::new(MemoryStore::new()).seed(seed);
        suite.run().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_with_a_fault_breaks_the_law_of_it() {
    for (fault, law) in [
        (Fault::Afresh, Law::CreateOnce),
        (Fault::OneByOne, Law::Principals),
        (Fault::Blob, Law::Merge),
        (Fault::Resurrects, Law::GoneStaysGone),
        (Fault::KeepsTheEnded, Law::GoneStaysGone),
        (Fault::Copies, Law::RotateOnce),
        (Fault::NoConflicts, Law::Conflict),
        (Fault::NoLimit, Law::Limit),
        (Fault::OneVersion, Law::VersionsGrow),
        (Fault::Torn, Law::WholeOrNothing),
        (Fault::NoExpiry, Law::Expiry),
    ] {
        let suite = Conformance::new(Faulty::new(fault)).seed(1);
        let violation = suite.check(law).await.unwrap_err();
        assert_eq!(violation.law, law, "{fault:?}");
        let text = violation.to_string();
        assert!(
            text.contains(&law.to_string()) && text.contains("seed 1"),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn random_steps_find_most_faults_as_well() {
    for fault in [
        Fault::Resurrects,
        Fault::KeepsTheEnded,
        Fault::Copies,
        Fault::NoConflicts,
        Fault::NoLimit,
    ] {
        let mut found = None;
        for seed in 0..8 {
            let suite = Conformance::new(Faulty::new(fault)).seed(seed);
            if let Err(violation) = suite.check(Law::SameAsModel).await {
                found = Some((seed, violation));
                break;
            }
        }
        let (seed, violation) = found.unwrap_or_else(|| panic!("no seed finds {fault:?}"));
        let again = Conformance::new(Faulty::new(fault)).seed(seed);
        let at = again.check(Law::SameAsModel).await.unwrap_err().at;
        assert_eq!(violation.at, at, "the same seed fails at the same step");
    }
}
