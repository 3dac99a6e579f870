//! Parts of a transaction that are undone alone.

use std::fmt;
use std::ops::Deref;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Error;
use super::conn::Lease;

/// A savepoint under a name that its transaction uses once. A shared name would be the enclosing savepoint's as soon as this
/// one is gone, and a late or repeated rollback would undo that one's work.
#[derive(Debug)]
pub(crate) struct Mark(u64);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ha_db_{}", self.0)
    }
}

impl Mark {
    /// Dropped half-way, a savepoint that nobody uses may stay until the transaction ends.
    pub(crate) async fn set(lease: &Lease) -> Result<Self, Error> {
        let mark = Self(lease.next_savepoint());
        within(lease, "SAVEPOINT", &format!("SAVEPOINT {mark}")).await?;
        Ok(mark)
    }

    /// Keeps what was done since; on an error it is undone. Once polled it is sent, and must not be undone any more.
    pub(crate) async fn release(self, lease: &Lease) -> Result<(), Error> {
        let sql = format!("RELEASE SAVEPOINT {self}");
        let released = within(lease, "RELEASE SAVEPOINT", &sql).await;
        if released.is_err() {
            self.abandon(lease);
        }
        released
    }

    pub(crate) async fn undo(self, lease: &Lease) -> Result<(), Error> {
        within(lease, "ROLLBACK TO SAVEPOINT", &self.undoing()).await
    }

    /// Undoes without waiting: the first poll sends, and whoever uses the connection next is served after it.
    pub(crate) fn abandon(self, lease: &Lease) {
        let _ = lease.client().batch_execute(&self.undoing()).now_or_never();
    }

    fn undoing(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT {self}; RELEASE SAVEPOINT {self}")
    }
}

/// Runs a statement of ours inside a transaction.
async fn within(lease: &Lease, what: &'static str, sql: &str) -> Result<(), Error> {
    let limit = lease.core().settings.commit_timeout;
    match timeout(limit, lease.client().batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            Err(Error::RolledBack {
                node: lease.name().to_owned(),
            })
        }
        Ok(Err(error)) => Err(Error::Query(error)),
        Err(_) => Err(Error::Timeout { what, limit }),
    }
}

/// A part of a [`Transaction`](super::Transaction) that can be undone alone: dereferences to the [`Client`]. Dropped without
/// [`Savepoint::commit`], what was done since is undone; the transaction goes on either way.
#[derive(Debug)]
pub struct Savepoint<'a> {
    lease: &'a Lease,
    mark: Option<Mark>,
}

impl<'a> Savepoint<'a> {
    pub(crate) async fn set(lease: &'a Lease) -> Result<Self, Error> {
        let mark = Some(Mark::set(lease).await?);
        Ok(Self { lease, mark })
    }

    /// A savepoint inside this one.
    ///
    /// # Errors
    /// As [`Transaction::savepoint`](super::Transaction::savepoint).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, Error> {
        Savepoint::set(self.lease).await
    }

    /// Makes what was done since a part of what encloses it, which decides whether it lasts.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when a statement had failed, [`Error::Query`], [`Error::Timeout`]: what was done since is undone.
    ///
    /// # Cancel safety
    /// Once polled it is a part of what encloses it; before that it is undone.
    pub async fn commit(mut self) -> Result<(), Error> {
        match self.mark.take() {
            Some(mark) => mark.release(self.lease).await,
            None => Ok(()),
        }
    }

    /// Undoes what was done since and waits for the server to say so.
    ///
    /// # Errors
    /// [`Error::Query`], [`Error::Timeout`]: the enclosing transaction cannot commit what was done since.
    ///
    /// # Cancel safety
    /// Undone all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        match self.mark.take() {
            Some(mark) => mark.undo(self.lease).await,
            None => Ok(()),
        }
    }
}

impl Savepoint<'_> {
    pub(crate) fn lease(&self) -> &Lease {
        self.lease
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            mark.abandon(self.lease);
        }
    }
}

impl Deref for Savepoint<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lease.client()
    }
}
