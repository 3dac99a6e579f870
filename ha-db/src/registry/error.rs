//! What can go wrong with the store of a registry.

use std::time::Duration;

/// Why a step in the store failed. Announcements and watchers go on trying by themselves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// PostgreSQL failed. A heartbeat or a drain may have been written all the same; repeating either is safe.
    #[cfg(feature = "postgres")]
    #[error("the registry's database failed")]
    Postgres(#[from] crate::postgres::Error),
    /// Redis failed. A heartbeat or a drain may have been written all the same; repeating either is safe.
    #[cfg(feature = "redis")]
    #[error("the registry's redis failed")]
    Redis(#[from] crate::redis::Error),
    /// The store did not answer in time. As above.
    #[error("the registry's store did not answer within {limit:?}")]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Somebody else has announced the same key since. Nothing changed.
    #[error("{key} was announced by a successor")]
    Superseded {
        /// The key.
        key: String,
    },
}
