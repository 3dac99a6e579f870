//! A test bed that starts and breaks real servers.
//!
//! A service is highly available when it survives the loss of what it depends on. That can only be shown by taking
//! those things away: this crate starts real PostgreSQL clusters with streaming replication, PostgreSQL under Patroni
//! with automatic failover, Redis with Sentinel and Redis Cluster, all on loopback, and lets a test kill, freeze and thaw each part.
//!
//! ```no_run
//! use ha_testbed::postgres::Postgres;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Postgres::primary().replicas(2).start().await?;
//! let client = cluster.nodes[0].client().await?;
//! client.batch_execute("create table note (id int primary key)").await?;
//!
//! cluster.nodes[0].kill().await?;   // SIGKILL, as if the machine lost power
//! cluster.promote(1).await?;        // what an operator or Patroni would do
//! cluster.nodes[1].client().await?.batch_execute("insert into note values (1)").await?;
//! # Ok(()) }
//! ```
//!
//! # In your own CI
//!
//! Add the crate as a dev-dependency and make sure of the binaries once, before the tests run:
//!
//! ```no_run
//! use ha_testbed::setup::{Tool, ensure};
//!
//! if let Err(error) = ensure(&[Tool::Postgres, Tool::Redis, Tool::Sentinel]) {
//!     eprintln!("{error}"); // names the exact command to run
//!     std::process::exit(2);
//! }
//! ```
//!
//! # What is promised
//!
//! - **Nothing is left behind.** Dropping a bed, a panic, Ctrl-C and even `SIGKILL` of the test process end every server
//!   and remove its files: a small watcher process in a group of its own notices that the owner is gone
//!   (see [`process`]).
//! - **Beds do not disturb each other.** Each has a directory and ports of its own; a port stays reserved while its
//!   server is dead, so that it can come back on the same one (see [`ports`]).
//! - **It works as root.** PostgreSQL refuses to run as root, so all servers then run as an unprivileged user
//!   (see [`setup::unprivileged_user`]).
//! - **Loopback only**, and every wait has a deadline.
//!
//! # What is not
//!
//! - Killing a process is not losing power: the kernel keeps what was written, so PostgreSQL runs with `fsync = off` by
//!   default here. A lost disk or a lost page cache is not simulated.
//! - Passwords and TLS are not set up unless asked for ([`redis::Builder::tls`], [`redis::Builder::acl`]); who can reach loopback
//!   can reach the servers.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `servers` | yes | everything that starts or talks to a server |
//! | none | | [`setup`] alone, on the standard library |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod setup;

#[cfg(feature = "servers")]
mod error;
#[cfg(feature = "servers")]
pub mod link;
#[cfg(feature = "servers")]
pub mod load;
pub mod oracle;
#[cfg(feature = "servers")]
mod parts;
#[cfg(feature = "servers")]
pub mod patroni;
#[cfg(feature = "servers")]
pub mod ports;
#[cfg(feature = "servers")]
pub mod postgres;
#[cfg(feature = "servers")]
pub mod process;
#[cfg(feature = "servers")]
pub mod redis;
#[cfg(feature = "servers")]
mod wait;

#[cfg(feature = "servers")]
pub use error::StartError;

/// The examples of the workspace's README, compiled here because this package sees every crate.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
