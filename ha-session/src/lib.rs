//! Sessions for stateless app servers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "axum")]
mod axum;
mod cookie;
mod engine;
mod error;
mod expiry;
mod id;
mod layer;
mod record;
mod session;
mod store;
mod value;

#[cfg(feature = "axum")]
pub use self::axum::MissingLayer;
pub use self::error::{ConfigError, SessionError};
pub use self::expiry::Expiry;
pub use self::id::SessionKey;
pub use self::layer::{ResponseFuture, SessionLayer, SessionLayerBuilder, SessionService};
pub use self::record::{Change, FORMAT, Patch, Record, Value, Version};
pub use self::session::{OnConflict, Session};
#[cfg(feature = "redis")]
pub use self::store::RedisStore;
pub use self::store::{
    Commit, Ending, Gone, Load, MemoryStore, Outcome, ROTATION_GRACE, Store, StoreError,
};
#[cfg(all(feature = "redis", feature = "postgres"))]
pub use self::store::{Level, Tiered};
#[cfg(feature = "postgres")]
pub use self::store::{MigrateError, PostgresStore};
