//! Statements that were prepared before.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio_postgres::{Client, Statement};

use super::conn::Lease;
use super::{Conn, Error, Transaction};

/// Statements that one connection keeps. What is prepared is memory on the server; a service has far fewer different ones.
const MOST: usize = 256;

/// The prepared statements of one connection, the oldest leaving first.
#[derive(Debug, Default)]
pub(crate) struct Statements(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_text: HashMap<String, Statement>,
    order: VecDeque<String>,
}

impl Statements {
    pub(crate) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.kept().by_text.get(sql) {
            return Ok(known.clone());
        }
        let statement = client.prepare(sql).await?;
        let mut kept = self.kept();
        if kept
            .by_text
            .insert(sql.to_owned(), statement.clone())
            .is_none()
        {
            kept.order.push_back(sql.to_owned());
        }
        if kept.order.len() > MOST
            && let Some(oldest) = kept.order.pop_front()
        {
            // The last clone closes it on the server.
            kept.by_text.remove(&oldest);
        }
        Ok(statement)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        let session = self.session();
        Ok(session.statements.prepare(&session.client, sql).await?)
    }
}

impl Conn {
    /// Prepares a statement, once per pooled connection: afterwards it costs no round trip. A connection keeps 256 of them.
    ///
    /// Texts must not be built from values: each would be kept. After a change of a table's columns, PostgreSQL refuses old
    /// statements (0A000) until the connection is replaced.
    ///
    /// # Errors
    /// [`Error::Query`].
    ///
    /// # Cancel safety
    /// Nothing is kept.
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        self.lease().prepare_cached(sql).await
    }
}

impl Transaction {
    /// As [`Conn::prepare_cached`].
    ///
    /// # Errors
    /// [`Error::Query`].
    ///
    /// # Cancel safety
    /// As [`Conn::prepare_cached`].
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        self.lease().prepare_cached(sql).await
    }
}
