//! A router seen by one client.
use std::time::Duration;
use super::{Causal, Conn, Error, Router, Token, Transaction};

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// Any state of the past.
    Eventual,
    /// At most this far behind the primary.
    Bounded(Duration),
    /// Everything this client has written, and nothing older than it has seen.
    #[default]
    ReadYourWrites,
    /// The primary.
    Strong,
}

/// A router seen by one client.
#[derive(Debug, Clone)]
pub struct Db { router: Router, causal: Causal }

impl Db {
    pub(crate) fn new(router: Router, causal: Causal) -> Self { Self { router, causal } }
    /// The router.
    #[must_use]
    pub fn router(&self) -> &Router { &self.router }
    /// The context.
    #[must_use]
    pub fn causal(&self) -> &Causal { &self.causal }
    /// The token, settled.
    pub async fn token(&self) -> Option<Token> { self.causal.settle().await }
    /// Read-your-writes.
    /// # Errors
    /// [`Error`]
    pub async fn read(&self) -> Result<Conn, Error> { self.read_with(Consistency::ReadYourWrites).await }
    /// # Errors
    /// [`Error`]
    /// Read.
    pub async fn read_with(&self, _consistency: Consistency) -> Result<Conn, Error> { self.router.read().await }
    /// Autocommit.
    /// # Errors
    /// [`Error`]
    pub async fn write(&self) -> Result<Conn, Error> { self.router.write().await }
    /// A transaction.
    /// # Errors
    /// [`Error`]
    pub async fn transaction(&self) -> Result<Transaction, Error> { self.router.transaction().await }
}
