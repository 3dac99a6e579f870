//! A unit of work.
use super::{Causal, Error, Router, Token};
#[derive(Debug)]
pub(crate) struct Shared {}
/// One outer transaction.
#[derive(Debug)]
pub struct Unit { client: tokio_postgres::Client }
impl Unit {
    /// Begins.
    /// # Errors
    /// [`Error`]
    pub async fn begin(_router: &Router, _causal: &Causal) -> Result<Self, Error> { Err(Error::NoReplica) }
    /// The connection, while nobody else uses it.
    /// # Errors
    /// [`Error`]
    pub async fn client(&self) -> Result<UnitClient<'_>, Error> { Ok(UnitClient(&self.client)) }
    /// Commits.
    /// # Errors
    /// [`Error`]
    pub async fn commit(self) -> Result<Token, Error> { Err(Error::NoReplica) }
    /// Rolls back.
    /// # Errors
    /// [`Error`]
    pub async fn rollback(self) -> Result<(), Error> { Err(Error::NoReplica) }
}
/// The connection of a [`Unit`].
#[derive(Debug)]
pub struct UnitClient<'a>(&'a tokio_postgres::Client);
impl std::ops::Deref for UnitClient<'_> { type Target = tokio_postgres::Client; fn deref(&self) -> &Self::Target { self.0 } }
