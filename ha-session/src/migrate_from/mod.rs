//! Moving in: sessions that tower-sessions' own stores left in Redis and PostgreSQL, read where this crate's store has none, so that
//! an app switches without signing anybody out.
//!
//! There are two ways:
//! - the app keeps tower-sessions' handlers and layer: give [`TowerSessions::reading_from`] one of the readers here;
//! - the app takes this crate's [`SessionLayer`](crate::SessionLayer): give [`SessionLayerBuilder::migrate`] a [`Migration`].
//!   A request that comes with tower-sessions' cookie, and none of ours, gets its session under a new id; the old record
//!   is deleted and the old cookie taken back once that is committed.
//!
//! tower-sessions' ids have 128 random bits and its cookie is not signed unless the app chose to; whoever could guess or
//! plant an id before can do so until the old records have expired. Take the migration out then.
//!
//! [`TowerSessions::reading_from`]: crate::adapter::TowerSessions::reading_from
//! [`SessionLayerBuilder::migrate`]: crate::SessionLayerBuilder::migrate

mod layer;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
#[cfg(feature = "redis")]
mod redis;

use futures_util::future::BoxFuture;

pub(crate) use self::layer::Carried;
pub use self::layer::Migration;
#[cfg(feature = "postgres")]
pub use self::postgres::TowerSessionsPostgres;
pub(crate) use self::record::Import;
#[cfg(any(feature = "tower-sessions-014", feature = "tower-sessions-015"))]
pub(crate) use self::record::text;
#[cfg(feature = "redis")]
pub use self::redis::TowerSessionsRedis;
use crate::store::StoreError;

#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    drop(Import::parse(bytes, time::OffsetDateTime::UNIX_EPOCH));
}

/// Where tower-sessions' records are.
pub trait Legacy: Send + Sync + 'static {
    /// The record under this id, in tower-sessions' MessagePack, if it has not expired by the clock of the store. An error means that
    /// nobody can say.
    fn read<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>>;

    /// Deletes the record. Deleting what is not there is fine.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}
