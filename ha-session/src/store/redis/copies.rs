//! Copies of sessions whose truth is stored elsewhere.

use std::fmt;
use std::time::Duration;

use ::redis::Script;

use super::reply::{Reply, Stored};
use super::{RedisStore, script, store_error};
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
        }
    }

    /// Whether no master is connected right now, so that commands would only wait.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.store.connection.status().master.is_none()
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

    /// Drops a copy.
    pub(crate) async fn forget(&self, key: SessionKey) -> Result<(), StoreError> {
        let mut command = ::redis::cmd("UNLINK");
        command.arg(self.store.key(&key));
        let dropped = self.store.connection.run(&command).await;
        dropped.map_err(store_error)
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
