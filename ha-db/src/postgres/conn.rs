//! Leased connection.
use std::ops::Deref;
/// A leased connection.
#[derive(Debug)]
pub struct Conn { client: tokio_postgres::Client }
impl Conn {
    /// The name of the node.
    #[must_use]
    pub fn node(&self) -> &str { "" }
}
impl Deref for Conn { type Target = tokio_postgres::Client; fn deref(&self) -> &Self::Target { &self.client } }
