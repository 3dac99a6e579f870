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
//!   standby past the cut of its timeline, or of which that cannot be told, gets no read.
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
//! them routing stays right and reads go to the primary after a failover until the replicas prove themselves.

#[cfg(feature = "axum")]
mod answer;
mod causal;
mod config;
mod conn;
mod db;
mod deadline;
mod error;
mod history;
mod lag;
mod lsn;
mod options;
mod pool;
mod probe;
mod resolve;
mod router;
mod run;
mod savepoint;
mod statements;
mod status;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod topology;
mod transaction;
mod unit;
mod warm;

pub use causal::Causal;
pub use config::{Builder, ConfigError};
pub use conn::Conn;
pub use db::{Consistency, Db};
pub use error::{CommitCause, ConnectError, Error, NoPrimary};
pub use lsn::{Lsn, ParseLsnError, Position};
pub use options::{SynchronousCommit, TransactionOptions};
pub use resolve::{InDoubt, Outcome};
pub use router::Router;
pub use run::Retry;
pub use savepoint::Savepoint;
pub use status::{NodeStatus, Role, Status};
#[cfg(feature = "tls")]
pub use tls::CertificateProblem;
pub use token::{Token, TokenError};
pub use transaction::Transaction;
pub use unit::{Unit, UnitClient};
