//! App servers announce themselves in the database that they have anyway; balancers follow.
//!
//! # What is promised
//! - **Who is announced is heard of** within one heartbeat and one look, on every watcher, with its address, weight, place and metadata.
//! - **Who drains is gone** at the next look, unless it is the last one: a set is never empty. **Who dies is gone** when the silence is too
//!   unlikely ([`ha_core::phi`]), after some three heartbeats; how long that is for each, [`Watch::members`] says.
//! - **The store being away changes nothing.** While it does not answer the last good set stays, and the silence of that time, but not what
//!   there was before it, counts for nothing. Registrations survive a failover, a lossy one as well: each heartbeat carries the whole announcement.
//! - **Silence of most is the store's** (one that takes no writes, say), not theirs: when somebody would have to go, and more than half of all have
//!   gone so lately or are late as well, all of them stay until half are in time again. The others then have their time anew.
//! - **A successor wins.** Who announces a key that is taken replaces the old holder, whose heartbeats and drain then count for nothing.
//! - In PostgreSQL heartbeats and looks have connections of their own, so that a full pool does not take an app out.
//! - Sets are delivered whole, and only when something is different. Only the newest is kept for a slow reader.
//!
//! # What is not
//! A registry says who meant to serve, not who can: health checks and breakers stay. Clocks of app servers and watchers do not
//! matter; the store's clock is only read for the age of what a new watcher finds.
//!
//! ```no_run
//! use futures_util::StreamExt as _;
//! use ha_core::endpoint::Endpoint;
//! use ha_db::registry::Registry;
//!
//! # #[cfg(feature = "redis")]
//! # async fn example(redis: ha_db::redis::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::redis("catalog", redis).build()?;
//! // In an app server:
//! let announcement = registry.announce("http://10.0.0.7:3000".parse::<Endpoint>()?);
//! // In an edge, `discover::stream(registry.watch())` of ha-tower takes the sets as they are:
//! let mut sets = registry.watch();
//! let first = sets.next().await;
//! # drop(first);
//! // On shutdown, before the last requests end:
//! announcement.drain().await?;
//! # Ok(())
//! # }
//! ```

mod announce;
mod error;
mod handle;
mod members;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod watch;
mod wire;

pub use announce::{Announcement, Standing};
pub use error::Error;
pub use handle::{Builder, Registry};
pub use members::Member;
#[cfg(feature = "postgres")]
pub use postgres::migrate;
pub use watch::Watch;
