//! The traits of each version of tower-sessions.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;

use super::core::{AdapterError, TowerSessions};
use crate::error::SessionError;
use crate::store::{MemoryStore, Store, StoreError};

/// A store that can delete what expired, for the `ExpiredDeletion` of tower-sessions.
pub trait PurgeExpired: Store {
    /// Deletes up to `limit` sessions that are long gone and says how many.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, they are deleted or not.
    fn purge_expired(&self, limit: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Nothing to do: it forgets ended sessions when it needs their place.
impl PurgeExpired for MemoryStore {
    async fn purge_expired(&self, _limit: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// Nothing to do: Redis expires them.
#[cfg(feature = "redis")]
impl PurgeExpired for crate::store::RedisStore {
    async fn purge_expired(&self, _limit: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[cfg(feature = "postgres")]
impl PurgeExpired for crate::store::PostgresStore {
    async fn purge_expired(&self, limit: u32) -> Result<u64, StoreError> {
        self.purge(limit).await
    }
}

#[cfg(all(feature = "redis", feature = "postgres"))]
impl PurgeExpired for crate::store::Tiered {
    async fn purge_expired(&self, limit: u32) -> Result<u64, StoreError> {
        self.postgres().purge(limit).await
    }
}

/// Sessions deleted in one statement.
const BATCH: u32 = 500;

async fn purge_all<S: PurgeExpired>(store: &S) -> Result<(), StoreError> {
    while store.purge_expired(BATCH).await? >= u64::from(BATCH) {}
    Ok(())
}

// The trait speaks of hours of the wall clock: to make durations of them takes one. It is read when the record is handed over, and a
// clock that is wrong all the time is wrong both ways.
#[allow(clippy::disallowed_methods)]
fn left(until: OffsetDateTime) -> Duration {
    Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default()
}

#[allow(clippy::disallowed_methods)]
fn until(left: Duration) -> OffsetDateTime {
    let left = time::Duration::try_from(left).unwrap_or(time::Duration::MAX);
    OffsetDateTime::now_utc().saturating_add(left)
}

/// An error with its causes, since the trait takes a text only.
fn text(error: &AdapterError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

macro_rules! adapt {
    ($feature:literal, $module:ident, $core:ident) => {
        #[cfg(feature = $feature)]
        mod $module {
            use $core::session::{Id, Record};
            use $core::session_store::{Error, Result};
            use $core::{ExpiredDeletion, SessionStore};

            use super::{
                AdapterError, PurgeExpired, SessionError, Store, StoreError, TowerSessions,
            };

            fn backend(error: AdapterError) -> Error {
                let text = super::text(&error);
                match error {
                    AdapterError::Value(
                        SessionError::Decode { .. } | SessionError::ValueFormat { .. },
                    ) => Error::Decode(text),
                    AdapterError::Value(_) | AdapterError::TooLarge { .. } => Error::Encode(text),
                    _ => Error::Backend(text),
                }
            }

            #[async_trait::async_trait]
            impl<S: Store> SessionStore for TowerSessions<S> {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    let left = super::left(record.expiry_date);
                    let created = TowerSessions::create(self, &record.data, left).await;
                    let (id, data) = created.map_err(backend)?;
                    record.id = Id(id);
                    record.data = data;
                    Ok(())
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    let left = super::left(record.expiry_date);
                    let saved = TowerSessions::save(self, record.id.0, &record.data, left);
                    saved.await.map_err(backend)
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    let loaded = TowerSessions::load(self, id.0).await.map_err(backend)?;
                    Ok(loaded.map(|loaded| Record {
                        id: *id,
                        data: loaded.data,
                        expiry_date: super::until(loaded.left),
                    }))
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    TowerSessions::delete(self, id.0).await.map_err(backend)
                }
            }

            #[async_trait::async_trait]
            impl<S: PurgeExpired> ExpiredDeletion for TowerSessions<S> {
                async fn delete_expired(&self) -> Result<()> {
                    let purged: std::result::Result<(), StoreError> =
                        super::purge_all(self.store()).await;
                    purged.map_err(AdapterError::Store).map_err(backend)
                }
            }
        }
    };
}

adapt!("tower-sessions-014", v014, tower_sessions_core_014);
adapt!("tower-sessions-015", v015, tower_sessions_core_015);
