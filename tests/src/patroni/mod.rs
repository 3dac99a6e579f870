//! PostgreSQL with automatic failover, by Patroni and etcd.
//!
//! ```no_run
//! use std::time::Duration;
//! use ha_testbed::patroni::Patroni;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let deadline = Duration::from_secs(60);
//! let cluster = Patroni::cluster(3).start().await?;
//! let old = cluster.wait_leader(deadline).await?;
//! cluster.kill_node(old).await?;
//! let new = cluster.wait_leader_other_than(old, deadline).await?;
//! assert_ne!(old, new);
//! cluster.start_node(old).await?; // is rewound and follows
//! cluster.wait_healthy(deadline).await?;
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! | setting | value | why |
//! |---|---|---|
//! | `ttl`, `loop_wait`, `retry_timeout` | 5, 1, 2 s | a dead node is replaced in about six seconds; Patroni 4 refuses a `ttl` below 20 |
//! | `primary_start_timeout` | 0 | a dead postmaster is failed over, not restarted |
//! | `synchronous_mode` | true | no acknowledged commit is lost to a failover, even with two primaries for a moment |
//! | `failsafe_mode` | true | the loss of etcd alone stops no writes |
//! | `use_pg_rewind`, `use_slots`, `wal_log_hints` | on | an old primary comes back as a replica by itself |
//! | `wal_sender_timeout`, `wal_receiver_timeout` | 5 s | a frozen peer is given up |
//! | `wal_retrieve_retry_interval` | 500 ms | replicas find the new primary fast |
//!
//! etcd must still know the v2 API (`--enable-v2`): 3.4 and 3.5 do, 3.6 does not.
//!
//! With no replica left Patroni turns synchronous replication off rather than stop the writes
//! (`synchronous_mode_strict` would stop them): what is acknowledged then is on one node only.
//!
//! There is the superuser `postgres`, and for the service under test the user [`APP`] with a database of the same name.
//! It is no superuser, but may read the replication statistics (`pg_monitor`) and call `pg_read_file`, which on a server
//! reads its own data directory. Everybody on loopback is trusted.

mod builder;
mod cluster;
mod config;
mod etcd;
mod node;
mod rest;

use std::time::Duration;

pub use builder::{Builder, Patroni};
pub use cluster::Cluster;
pub use node::Node;

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(120);

/// The user and database of the service under test.
pub const APP: &str = "app";
