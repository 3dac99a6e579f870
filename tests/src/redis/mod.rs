//! Redis: alone, with replicas and Sentinel, or as a cluster; with TLS and ACL users where asked for.
//!
//! ```no_run
//! use std::time::Duration;
//! use ha_testbed::redis::Redis;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::sentinel(3).start().await?;
//! let old = redis.master().await?;
//! redis.nodes[old].kill().await?;
//! let new = redis.wait_master_other_than(old, Duration::from_secs(30)).await?;
//! assert_ne!(old, new);
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! [`Redis::sentinel`]`(3)` starts a master, two replicas and three Sentinels that watch over `mymaster`:
//!
//! | setting | value | why |
//! |---|---|---|
//! | quorum | 2 | one Sentinel alone may be wrong |
//! | `down-after-milliseconds` | 2000 | long enough for a busy machine, short enough for a test |
//! | `failover-timeout` | 10000 | a second failover of the same master has to wait twice this |
//! | `min-replicas-to-write` | as Redis has it: 0 | set it with [`Builder::setting`] to test the loss of writes |
//! | persistence | off | a killed node comes back empty and copies from the master |
//!
//! [`Redis::cluster`]`(6)` starts three masters and a replica of each, which share the 16,384 slots:
//!
//! | setting | value | why |
//! |---|---|---|
//! | `cluster-node-timeout` | 2000 | as above; a replica takes over some seconds after its master went silent |
//! | `cluster-require-full-coverage` | as Redis has it: yes | while one shard is down no shard serves; set it to `no` with [`Builder::setting`] |
//!
//! Slots are moved under load with [`Cluster::migrate_slot`], or in steps with [`Cluster::begin_migration`] and what follows it.
//!
//! With [`Builder::tls`] every node serves TLS on [`Node::tls_port`], and it is what the nodes use among themselves and tell their clients.
//! With [`Builder::acl`] and [`Builder::sentinel_acl`] nobody but that user is let in.
//!
//! A killed master that is started at once, before the Sentinels notice, is an **empty master** and its replicas copy
//! that emptiness: this is how Redis is. Use `.setting("appendonly", "yes")` where a node has to come back with its data.

mod builder;
mod cluster;
mod config;
mod node;
mod slots;
mod tls;

use std::time::Duration;

pub use builder::{Builder, Redis};
pub use cluster::Cluster;
pub use node::Node;
pub use slots::SLOTS;

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(60);

/// The name the Sentinels know the master by.
pub const MASTER_NAME: &str = "mymaster";

/// A user of the servers and the password.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}
