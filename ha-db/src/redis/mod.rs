//! A Redis connection that follows the master.
//!
//! # The problem
//! A multiplexed connection is one TCP link to one node, and nothing tells it that the node has stopped being the master:
//! after a Sentinel failover it keeps writing to a node that is dead, that refuses, or, worst, that was frozen or demoted
//! and acknowledges writes which are thrown away a moment later.
//!
//! # What [`Connection`] does
//! - It finds the master through the Sentinels and takes the newest view among their answers (highest configuration
//!   epoch), never an older one than it has acted upon.
//! - It uses a node only after its `ROLE` said master and it answered a `PING`.
//! - It gives a node up at once on a broken link, `READONLY`, `LOADING` or `MASTERDOWN`, after some timeouts in a row,
//!   when any Sentinel announces `+switch-master`, and when a periodic look at `ROLE` and the Sentinels disagrees.
//!   Commands under way on a node that was given up end as [`Error::Unknown`], even if the node still answers.
//! - While a Sentinel leads a failover it holds commands back, since the old master goes on acknowledging writes that will
//!   be lost.
//! - Every command has a deadline of its own, also on a frozen server. Without a master, commands wait until then
//!   and end as [`Error::NotSent`]. One task reconnects, however many commands wait.
//!
//! # What it does not do
//! Redis replicates asynchronously: a write that the master acknowledged and did not replicate before it died is lost. So is one
//! that a partitioned client gives to a partitioned master before the first Sentinel is heard
//! (`min-replicas-to-write` on the servers bounds that). Keep what must not be lost in PostgreSQL as well. Blocking commands
//! (`BLPOP`, `SUBSCRIBE`) do not belong on a shared connection.
//!
//! # URLs
//! - `redis://[user:password@]host[:port][/db]`
//! - `redis+sentinel://[user:password@]host[:port],host[:port],…/master-name[/db][?sentinel_user=…&sentinel_password=…]`
//!
//! ```no_run
//! use ha_db::redis::{Connection, driver};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Connection::from_url("redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/mymaster")?;
//! let hits: u64 = redis.run(&driver::cmd("INCR").arg("hits")).await?;
//! # Ok(())
//! # }
//! ```

/// The driver whose commands, scripts and pipelines this takes, in the version that fits.
#[doc(no_inline)]
pub use ::redis as driver;

mod config;
mod connection;
mod error;
mod follow;
mod sentinel;
mod status;
mod supervisor;

pub use config::Builder;
pub use connection::Connection;
pub use error::{ConfigError, Error, NotSent, Unknown};
pub use follow::Reason;
pub use status::{SentinelStatus, Status};
