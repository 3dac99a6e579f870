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
use crate::record::Record;
use crate::store::{Gone, Store as _, StoreError};

/// What is known of a copy.
#[derive(Debug)]
pub(crate) enum Copy {
    /// A copy, and how long ago it was known to be the newest state.
    Found(Record, Duration),
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
        }
    }

    pub(crate) async fn look(&self, key: SessionKey) -> Result<Copy, StoreError> {
        let reply = self.store.look(key).await?;
        let age = reply.age;
        Ok(match reply.stored()? {
            Stored::Found(record) => Copy::Found(record, Duration::from_millis(age)),
            Stored::Gone(gone) => Copy::Gone(gone),
            Stored::Missing => Copy::Missing,
        })
    }

    /// Keeps a copy, unless something newer is here.
    pub(crate) async fn put(&self, key: SessionKey, record: &Record) -> Result<(), StoreError> {
        let mut call = self.put.key(self.store.key(&key));
        call.arg(record.version.get())
            .arg(millis(record.idle_left))
            .arg(millis(record.absolute_left))
            .arg(TOMBSTONE_MS);
        let owner = record.owner.as_ref();
        call.arg(owner.map_or("", |owner| owner.principal.as_str()))
            .arg(owner.map_or(0, |owner| owner.epoch));
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
