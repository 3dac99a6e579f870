//! A router over one PostgreSQL primary and its streaming replicas.

#[cfg(feature = "axum")]
mod answer;
mod causal;
mod config;
mod conn;
mod db;
mod error;
mod history;
mod lag;
mod lsn;
mod pool;
mod probe;
mod router;
mod status;
mod token;
mod topology;
mod transaction;
mod unit;

pub use causal::Causal;
pub use config::{Builder, ConfigError};
pub use conn::Conn;
pub use db::{Consistency, Db};
pub use error::{ConnectError, Error, NoPrimary};
pub use lsn::{Lsn, ParseLsnError, Position};
pub use router::Router;
pub use status::{NodeStatus, Role, Status};
pub use token::{Token, TokenError};
pub use transaction::Transaction;
pub use unit::{Unit, UnitClient};
