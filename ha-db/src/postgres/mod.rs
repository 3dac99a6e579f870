//! A router over one PostgreSQL primary and its streaming replicas.
//!
//! It asks every node what it is on connections of its own, follows promotions by timeline, and lends connections: writes on
//! the primary, reads on a replica that is known to show what the client has written.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use ha_db::postgres::{Causal, Router};
//!
//! let router = Router::builder()
//!     .node("a", "host=10.0.0.1 dbname=app user=app")
//!     .node("b", "host=10.0.0.2 dbname=app user=app")
//!     .build()?;
//! let db = router.db(Causal::default());
//! let tx = db.transaction().await?;
//! tx.execute("INSERT INTO notes VALUES ('hello')", &[]).await?;
//! tx.commit().await?;
//! let rows = db.read().await?.query("SELECT * FROM notes", &[]).await?;
//! assert!(!rows.is_empty());
//! # Ok(()) }
//! ```
//!
//! # Promised
//! - A node of an earlier timeline, of another database cluster, or one of two primaries on one timeline, gets no write; a
//!   standby past the cut of its timeline, or of which that cannot be told, gets no read. While there is a primary, only standbys
//!   of its timeline are read from.
//! - Reads show what the client wrote and do not go back in time; an acknowledged write that a failover cut off is reported.
//! - Every wait has a deadline; a connection left inside a transaction is not lent again.
//!
//! # Not promised
//! - Promotion and fencing are the cluster manager's: a partitioned primary whose successor cannot be seen still looks like one.
//! - With asynchronous replication a failover may lose acknowledged writes; they are reported, not prevented.
//! - With `synchronous_commit = off`, monotonic reads cover what is flushed.
//! - Without the feature `tls` and [`Builder::tls`], connections are made in plain text.
//!
//! The role needs `pg_monitor`, and `EXECUTE` on `pg_read_file(text, bigint, bigint, boolean)` for timeline histories; without
//! them routing stays right and reads go to the primary after a failover until the replicas prove themselves. PostgreSQL 12 or
//! later.
//!
//! # Which reads go where
//! A replica that is known to show enough serves without a question ([`Consistency`] says what is enough); of several, one in this
//! process's own locality ([`Builder::local`]), of those the one with the fewest connections in use. Else one replica is waited for,
//! up to [`Builder::replica_wait`]; else the primary serves, [`Builder::fallback_reads`] at a time, so that the loss of all
//! replicas does not take the writes with it. Choosing allocates nothing and asks nobody; it looks once at the topology, which takes no
//! lock, and once at the client's context.
//!
//! # How it may be set up
//! - **Plain streaming replication, Patroni, CloudNativePG and the like**: give every node by an address of its own. Whoever
//!   promotes, the router sees it. Synchronous and asynchronous standbys alike, and standbys of standbys.
//! - **A set that changes**: [`Router::add_node`], [`Router::remove_node`].
//! - **PgBouncer** may stand before each node, one for each, and never one before several: what is behind an address must
//!   be one server. Probes and pools are clients of it, so its `default_pool_size` has to be larger than what all routers before it have. With
//!   `pool_mode = session` everything works, cancellations and failovers included, and the router's own deadlines hold for what is behind it
//!   too. `pool_mode = transaction` must not be used: whole transactions of unprepared statements work, but a prepared statement and a `SET` stay
//!   with a server session that another client has by then, a cancellation may end somebody else's statement, and a connection outlives the
//!   server of whose life everything was said that the router knows, so that a read may be stale after a restart.
//! - **An address that follows the primary** (a virtual IP, a service of Kubernetes) may stand beside the nodes themselves: the
//!   two names of one server count once ([`Role::Duplicate`]). Alone it gives up reads on replicas.
//!
//! # Two primaries on one timeline
//! Numbers of timelines tell one log from another unless two standbys are promoted apart from each other. Then both write the same
//! number, writes are refused ([`NoPrimary::Tie`]) and stay so when one of them only becomes silent: start it anew as a standby, or
//! take it out with [`Router::remove_node`]. What was acknowledged on the side that is given up is gone, and no token tells.
//!
//! # Events and metrics
//! [`Builder::on_event`] tells of every change ([`Event`]), and each is logged with `tracing` under the names of its fields. What an
//! operator has to mend is a [`Problem`] with its remedy, in [`Status`] as well. With the feature `metrics`:
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `ha_db_primary_known` | gauge, 0 or 1 | |
//! | `ha_db_epoch` | gauge | |
//! | `ha_db_primary_changes_total` | counter | |
//! | `ha_db_primary_losses_total` | counter | `reason`: `not_found`, `tie`, `system_id_dispute`, `nothing_known` |
//! | `ha_db_node_reachable` | gauge, 0 or 1 | `node` |
//! | `ha_db_lag_seconds` | gauge; NaN when nobody can tell, 0 for a primary | `node` |
//! | `ha_db_in_use` | gauge, connections lent | `node` |
//! | `ha_db_reads_total` | counter | `node`; `how`: `proven`, `waited`, `fallback`, `primary` |
//! | `ha_db_ejections_total`, `ha_db_readmissions_total` | counter | `node` |
//! | `ha_db_problems_total` | counter | `node` |
//! | `ha_db_unprovable_tokens_total` | counter | |

#[cfg(feature = "axum")]
mod answer;
mod catch_up;
mod causal;
mod changes;
mod config;
mod conn;
mod db;
mod deadline;
mod error;
mod event;
mod give_back;
mod members;
#[cfg(feature = "metrics")]
mod metrics;
mod options;
mod pool;
mod primary;
mod probe;
mod problem;
mod read;
mod resolve;
mod router;
mod run;
mod savepoint;
mod shared;
mod stand;
mod statements;
mod status;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod transaction;
mod unit;
mod warm;

use crate::routing::{history, lsn, role, topology, view};

pub use crate::routing::read::Consistency;
pub use causal::Causal;
pub use config::{Builder, ConfigError};
pub use conn::Conn;
pub use db::Db;
pub(crate) use deadline::after;
pub use error::{CommitCause, ConnectError, Error};
pub use event::Event;
pub use lsn::{Lsn, ParseLsnError, Position};
pub use options::{SynchronousCommit, TransactionOptions};
pub use problem::Problem;
pub use resolve::{InDoubt, Outcome};
pub use role::{NoPrimary, Role};
pub use router::Router;
pub use run::Retry;
pub use savepoint::Savepoint;
pub use status::{NodeStatus, Status};
#[cfg(feature = "tls")]
pub use tls::CertificateProblem;
pub use token::{Token, TokenError};
pub use transaction::Transaction;
pub use unit::{Unit, UnitClient};
