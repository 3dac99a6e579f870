//! Operations that end on the server too.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;

use super::conn::Lease;
use super::error::CommitCause;
use super::pool::{Node, Session};
use super::run::is_news;
use super::{Conn, Error, Savepoint, Transaction};

/// How long a statement may take to end once the server has been told to cancel it.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);

/// When `limit` is over; in thirty years, if that is later than there is a number for.
pub(crate) fn after(limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    now.checked_add(limit).unwrap_or_else(|| now + FAR)
}

impl Lease {
    /// Runs an operation of this connection until its deadline; then it is cancelled on the server as well.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let mut operation = pin!(operation);
        if let Ok(done) = timeout(limit, operation.as_mut()).await {
            return done.map_err(|error| {
                if error.code().is_some_and(is_news) {
                    self.core().kick();
                }
                Error::Query(error)
            });
        }
        self.taint();
        let late = Error::Timeout {
            what: "an operation",
            limit,
        };
        let node = &self.session().node;
        let ended =
            async { tokio::join!(node.cancel(self.session(), self.is_autocommit()), operation).1 };
        match timeout(CANCEL_LIMIT, ended).await {
            // It was faster than the cancellation.
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => Err(late),
            Ok(Err(error)) if !self.is_autocommit() || error.code().is_some() => {
                Err(Error::Query(error))
            }
            Err(_) if !self.is_autocommit() => Err(late),
            // A statement of its own commits by itself, and nobody has said whether it did.
            Ok(Err(error)) => Err(self.unknown(CommitCause::Ended(error))),
            Err(_) => Err(self.unknown(CommitCause::Deadline)),
        }
    }

    fn unknown(&self, source: CommitCause) -> Error {
        Error::CommitUnknown {
            node: self.name().to_owned(),
            source,
            doubt: None,
        }
    }
}

impl Node {
    /// Asks the server to cancel what runs on a session, within the connect timeout. The request may arrive late, so the session
    /// must not be lent again.
    ///
    /// A statement that has committed locally and waits for a synchronous standby is left alone: cancelled there, it becomes
    /// visible without the standby having it. With synchronous standbys only one that waits for a lock, or sleeps, is cancelled: one
    /// that works may have come to that wait by the time the signal is there.
    pub(crate) async fn cancel(self: &std::sync::Arc<Self>, session: &Session, autocommit: bool) {
        let cancelling = async {
            if autocommit {
                let sql = format!(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                     WHERE pid = {} AND wait_event IS DISTINCT FROM 'SyncRep' \
                     AND (current_setting('synchronous_standby_names') = '' OR wait_event_type IN ('Lock', 'Timeout'))",
                    session.pid
                );
                if let Ok(other) = self.connect().await {
                    let _ = other.client.simple_query(&sql).await;
                }
            } else {
                self.cancel_by_protocol(session).await;
            }
        };
        if timeout(self.connect_timeout, cancelling).await.is_err() {
            tracing::debug!(node = &*self.name, "cancellation was not taken in time");
        }
    }
}

impl Conn {
    /// Runs a statement of this connection with a deadline: then it is cancelled, on the server too, and the connection is not
    /// lent again.
    ///
    /// ```no_run
    /// # async fn example(db: ha_db::postgres::Db) -> Result<(), ha_db::postgres::Error> {
    /// use std::time::Duration;
    ///
    /// let conn = db.read().await?;
    /// let rows = conn.within(Duration::from_millis(200), conn.query("SELECT * FROM report", &[])).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`]: it was cancelled, nothing was changed. [`Error::CommitUnknown`]: a write of its own that the server did
    /// not confirm to be cancelled. [`Error::Query`].
    ///
    /// # Cancel safety
    /// As dropping the operation: once the connection is dropped too, what still runs is cancelled on the server.
    pub async fn within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.lease().within(limit, operation).await
    }
}

impl Transaction {
    /// Runs a statement of this transaction with a deadline: then it is cancelled, on the server too. The transaction has failed
    /// then, unless a savepoint is rolled back.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Query`].
    ///
    /// # Cancel safety
    /// As dropping the operation: once the transaction is dropped too, what still runs is cancelled on the server.
    pub async fn within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.lease().within(limit, operation).await
    }
}

impl Savepoint<'_> {
    /// As [`Transaction::within`]. Rolled back, the savepoint takes the failure along, and the transaction goes on.
    ///
    /// # Errors
    /// As [`Transaction::within`].
    ///
    /// # Cancel safety
    /// As [`Transaction::within`].
    pub async fn within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.lease().within(limit, operation).await
    }
}
