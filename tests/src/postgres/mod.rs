//! PostgreSQL with streaming replication.
//!
//! [`Postgres::primary`] starts a primary and its replicas, each a `postgres` process of its own on a loopback port.
//! Nobody watches over them: a test kills, promotes and re-points nodes itself, in exactly the order it wants. For
//! automatic failover see [`patroni`](crate::patroni).
//!
//! ```no_run
//! use ha_testbed::postgres::Postgres;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Postgres::primary().replicas(2).start().await?;
//! cluster.pause_replay(1).await?; // node 1 receives, but no longer shows, what is written
//! let seen = cluster.nodes[1].client().await?.query_one("select pg_is_in_recovery()", &[]).await?;
//! assert!(seen.get::<_, bool>(0));
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! - Superuser `postgres`, trusted from loopback; no Unix socket.
//! - A physical replication slot per replica, `wal_log_hints` (so that `pg_rewind` works), hot standby feedback.
//! - `fsync = off`: `SIGKILL` does not lose what the kernel has taken, and a bed starts several times faster. Ask for
//!   [`setting("fsync", "on")`](Builder::setting) where the disk's own speed matters.
//! - Replication gives up on a silent peer after 5 s and tries again every 100 ms; PostgreSQL's own 60 s and 5 s make
//!   for slow tests.

mod builder;
mod client;
mod cluster;
mod files;
mod node;
mod settings;

use std::time::Duration;

pub use builder::{Builder, Postgres};
pub use client::Client;
pub use cluster::Cluster;
pub use node::Node;
pub(crate) use settings::SETTINGS;

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(60);

/// The replication slot of a node; slot names may hold no dash.
fn slot(name: &str) -> String {
    name.replace('-', "_")
}
