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
//! - It never has more than a bounded number of commands under way or waiting; one more fails at once.
//!
//! # In a cluster
//! Each command goes to the owner of its key's slot, and all of the above holds for each master by itself. Who owns what is asked of the
//! masters every second and at once on any sign of a change (`MOVED`, `CLUSTERDOWN`, a broken link, a timeout). Of each slot the
//! claim with the highest configuration epoch holds, and never one below what is known: a master that was frozen or cut off while its
//! replica took over does not get its slots back. Commands that meet a slot on the move are sent where their keys are (`ASK`), within their
//! deadline. The driver's own cluster connection sends a command again after a broken link, so that an `INCR` may be applied twice; this one says
//! [`Error::Unknown`].
//!
//! A command that is about every node (`KEYS`, `SCAN`, `FLUSHALL`, `CONFIG SET`, `FUNCTION LOAD`) or about keys in several slots is refused
//! before it is sent.
//!
//! # Writes that outlive the master
//! A write with `WAIT` behind it, in one [`pipeline`](Connection::pipeline), says how many replicas have it. With one, the loss of the
//! master does not lose it, as long as the Sentinels, or the nodes of the cluster, promote the replica that has most. With none in time, it is
//! there and may be lost, like any other. The link stands still while it waits, for everybody who shares it: about one exchange with the
//! replica. Give such writes a connection of their own.
//!
//! ```no_run
//! use ha_db::redis::{Connection, driver};
//!
//! # async fn example(redis: Connection) -> Result<(), Box<dyn std::error::Error>> {
//! let mut write = driver::pipe();
//! write.cmd("SET").arg("order:7").arg("paid").ignore();
//! write.cmd("WAIT").arg(1).arg(250); // replicas, and milliseconds: fewer than the deadline of a command
//! let (copies,): (u64,) = redis.pipeline(&write).await?;
//! if copies == 0 {
//!     println!("written, on the master alone");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//! Redis replicates asynchronously: a write that the master acknowledged and did not replicate before it died is lost, unless it waited as above. So is one
//! that a partitioned client gives to a partitioned master before the first Sentinel is heard
//! (`min-replicas-to-write` on the servers bounds that). Keep what must not be lost in PostgreSQL as well. Blocking commands
//! (`BLPOP`, `SUBSCRIBE`) do not belong on a shared connection.
//!
//! # URLs
//! - `redis://[user:password@]host[:port][/db]`
//! - `redis+sentinel://[user:password@]host[:port],host[:port],…/master-name[/db][?sentinel_user=…&sentinel_password=…]`
//! - `redis+cluster://[user:password@]host[:port],host[:port],…`
//! - With `rediss` in place of `redis`: the same over TLS (feature `tls`), Sentinels included. `?tls_ca_file=…` names whom to trust;
//!   without it, whom the system trusts.
//!
//! User, password, names and parameters are percent-encoded.
//!
//! # What a user needs
//! With ACLs, the user's commands, `ROLE` and `PING`; in a cluster `CLUSTER|NODES`; the Sentinels' user `SENTINEL|MASTER`, `SUBSCRIBE` to
//! `+switch-master` and `+try-failover`, and `PING`. With `SENTINEL|GET-MASTER-ADDR-BY-NAME` as well a new master is known as soon as the
//! Sentinel that leads the failover has promoted it. [`Failure::NotAllowed`] says what is missing.
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

mod cluster;
mod config;
mod connection;
mod dial;
mod error;
mod follow;
mod seat;
mod sentinel;
mod shared;
mod status;
mod supervisor;
mod url;

pub use config::Builder;
pub use connection::Connection;
pub use error::{ConfigError, Error, Failure, NotSent, Step, Unknown};
pub use follow::Reason;
pub use status::{NodeStatus, SentinelStatus, Status};
