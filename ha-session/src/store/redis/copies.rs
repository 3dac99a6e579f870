//! Copies of sessions whose truth is stored elsewhere.

use std::fmt;
use std::time::Duration;

use ::redis::Script;

use super::reply::{Reply, Stored};
use super::{RedisStore, script};
use crate::engine::{TOMBSTONE_MS, millis};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::Principal;
#[cfg(feature = "journal")]
use crate::record::Change;
use crate::record::{Record, Version};
#[cfg(feature = "journal")]
use crate::store::{Commit, Outcome};
use crate::store::{Gone, Store as _, StoreError};

/// What is known of a copy.
#[derive(Debug)]
pub(crate) enum Copy {
    Found {
        record: Record,
        /// How long ago it was known to be the newest state.
        age: Duration,
        /// It has changes that are still to be told where the truth is.
        pending: bool,
    },
    Gone(Gone),
    /// Nothing is here, which says nothing about the session.
    Missing,
}

/// A Redis that holds copies only.
#[derive(Clone)]
pub(crate) struct Copies {
    store: RedisStore,
    put: Script,
    retire: Script,
    #[cfg(feature = "journal")]
    ahead: Script,
}

/// How long a copy is taken for one with changes that the truth lacks, after the last of them: an hour. A journal that has not been
/// replayed by then is taken for lost.
pub(crate) const MARK_MS: u64 = 3_600_000;

/// What became of a commit to a copy.
#[cfg(feature = "journal")]
#[derive(Debug)]
pub(crate) enum Ahead {
    /// There is no copy to judge it by.
    Missing,
    Judged {
        outcome: Outcome,
        /// The truth has never heard of the session.
        born: bool,
    },
}

impl Copies {
    /// Copies under the keys of `store`, with a deadline of their own for each command.
    pub(crate) fn new(store: &RedisStore, timeout: Duration) -> Self {
        Self {
            store: RedisStore {
                connection: store.connection.with_timeout(timeout),
                replicas: 0,
                ..store.clone()
            },
            put: script(include_str!("put.lua")),
            retire: script(include_str!("retire.lua")),
            #[cfg(feature = "journal")]
            ahead: script(include_str!("ahead.lua")),
        }
    }

    pub(crate) async fn look(&self, key: SessionKey) -> Result<Copy, StoreError> {
        let reply = self.store.look(key).await?;
        let age = Duration::from_millis(reply.age);
        let pending = reply.pending;
        Ok(match reply.stored()? {
            Stored::Found(record) => Copy::Found {
                record,
                age,
                pending,
            },
            Stored::Gone(gone) => Copy::Gone(gone),
            Stored::Missing => Copy::Missing,
        })
    }

    /// Keeps a copy, unless something newer is here, or something that the truth lacks.
    pub(crate) async fn put(&self, key: SessionKey, record: &Record) -> Result<(), StoreError> {
        self.put_settled(key, record, "", Version::ZERO).await
    }

    /// Keeps a copy after the truth was told of this journal's changes up to `version`.
    #[cfg(feature = "journal")]
    pub(crate) async fn settle(
        &self,
        key: SessionKey,
        record: &Record,
        journal: u64,
        version: Version,
    ) -> Result<(), StoreError> {
        let journal = format!("{journal:016x}");
        self.put_settled(key, record, &journal, version).await
    }

    /// Commits to the copy, or begins one, and marks it as one that has changes of this journal.
    #[cfg(feature = "journal")]
    pub(crate) async fn commit_ahead(
        &self,
        commit: &Commit,
        journal: u64,
    ) -> Result<Ahead, StoreError> {
        let mut call = self.ahead.key(self.store.key(&commit.key));
        let (mut sets, mut removes) = (Vec::new(), Vec::new());
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => sets.push((name, bytes)),
                Change::Remove => removes.push(name),
            }
        }
        call.arg(format!("{journal:016x}"))
            .arg(u8::from(commit.create))
            .arg(millis(commit.expiry.idle()))
            .arg(millis(commit.expiry.absolute()))
            .arg(commit.max_bytes)
            .arg(TOMBSTONE_MS)
            .arg(sets.len());
        for (name, bytes) in sets {
            call.arg(name).arg(&bytes[..]);
        }
        for name in removes {
            call.arg(name);
        }
        let reply = self.store.run(&call).await?;
        if reply.view() == "missing" {
            return Ok(Ahead::Missing);
        }
        let born = reply.born;
        let outcome = reply.outcome()?;
        Ok(Ahead::Judged { outcome, born })
    }

    async fn put_settled(
        &self,
        key: SessionKey,
        record: &Record,
        journal: &str,
        settled: Version,
    ) -> Result<(), StoreError> {
        let mut call = self.put.key(self.store.key(&key));
        call.arg(record.version.get())
            .arg(millis(record.idle_left))
            .arg(millis(record.absolute_left))
            .arg(TOMBSTONE_MS);
        let owner = record.owner.as_ref();
        call.arg(owner.map_or("", |owner| owner.principal.as_str()))
            .arg(owner.map_or(0, |owner| owner.epoch))
            .arg(journal)
            .arg(settled.get())
            .arg(MARK_MS);
        for (name, value) in &record.values {
            let mut stored = format!("{}:", value.version).into_bytes();
            stored.extend_from_slice(&value.bytes);
            call.arg(name.as_str()).arg(stored);
        }
        self.store
            .run(&call)
            .await
            .and_then(|reply| Reply::check_format(&reply))
    }

    /// Remembers that a session has ended, also if it was never here.
    pub(crate) async fn bury(&self, key: SessionKey) -> Result<(), StoreError> {
        self.store.end_one(key, true, true, None).await.map(drop)
    }

    /// Remembers that a session has ended if it is here.
    pub(crate) async fn end(&self, key: SessionKey) -> Result<(), StoreError> {
        self.store.end_one(key, false, true, None).await.map(drop)
    }

    /// Takes note of an epoch that was drawn where the truth is.
    pub(crate) async fn revoke(&self, principal: &Principal, epoch: u64) -> Result<(), StoreError> {
        let noted = self.store.draw_epoch(principal, None, epoch).await;
        noted.map(drop)
    }

    /// Remembers that an id was rotated away, also if it was never here: a read that began before and ends after it must not put
    /// back what it found.
    pub(crate) async fn retire(
        &self,
        key: SessionKey,
        left: Duration,
        ago: Duration,
    ) -> Result<(), StoreError> {
        let mut call = self.retire.key(self.store.key(&key));
        call.arg(millis(left)).arg(millis(ago)).arg(TOMBSTONE_MS);
        self.store.run(&call).await.map(drop)
    }

    pub(crate) async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.store.touch(key, expiry).await
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Copies").field(&self.store).finish()
    }
}
