//! A transaction.
use std::ops::Deref;
use super::{Error, Token};
/// A transaction.
#[derive(Debug)]
pub struct Transaction { client: tokio_postgres::Client }
impl Transaction {
    /// The name of the node.
    #[must_use]
    pub fn node(&self) -> &str { "" }
    /// Commits.
    /// # Errors
    /// [`Error`]
    pub async fn commit(self) -> Result<Token, Error> { Err(Error::NoReplica) }
    /// Rolls back.
    /// # Errors
    /// [`Error`]
    pub async fn rollback(self) -> Result<(), Error> { Err(Error::NoReplica) }
}
impl Deref for Transaction { type Target = tokio_postgres::Client; fn deref(&self) -> &Self::Target { &self.client } }
