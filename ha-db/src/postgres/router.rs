//! The router.
use std::sync::Arc;
use std::time::Duration;

use super::config::{Builder, Settings};
use super::{Causal, Conn, Db, Error, Status, Transaction};

/// Routes to the primary and its replicas. Clones share everything.
#[derive(Debug, Clone)]
pub struct Router(Arc<Settings>);

impl Router {
    /// Starts a builder.
    #[must_use]
    pub fn builder() -> Builder { Builder::default() }
    pub(crate) fn start(_nodes: Vec<(String, tokio_postgres::Config)>, settings: Settings, _rt: tokio::runtime::Handle) -> Self { Self(Arc::new(settings)) }
    /// A connection for a read without causality.
    /// # Errors
    /// [`Error`]
    pub async fn read(&self) -> Result<Conn, Error> { Err(Error::NoReplica) }
    /// A connection to the primary.
    /// # Errors
    /// [`Error`]
    pub async fn write(&self) -> Result<Conn, Error> { Err(Error::NoReplica) }
    /// A transaction on the primary.
    /// # Errors
    /// [`Error`]
    pub async fn transaction(&self) -> Result<Transaction, Error> { Err(Error::NoReplica) }
    /// With causality.
    #[must_use]
    pub fn db(&self, causal: Causal) -> Db { Db::new(self.clone(), causal) }
    /// Snapshot.
    #[must_use]
    pub fn status(&self) -> Status { unimplemented!() }
    /// Waits for a primary.
    /// # Errors
    /// [`Error`]
    pub async fn wait_primary(&self, _deadline: Duration) -> Result<(), Error> { Err(Error::NoReplica) }
}
