//! Whole transactions that are tried again where that is safe.

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use ha_core::backoff::Backoff;
use tokio::time::timeout_at;
use tokio_postgres::error::{DbError, SqlState};

use super::deadline::after;
use super::error::CommitCause;
use super::lsn::{Lsn, Position};
use super::token::Known;
use super::{Conn, Consistency, Db, Error, Outcome, Token, Transaction, TransactionOptions};
use crate::routing::read::NodeSet;

/// How often, and how long, [`Db::run`] tries. All retries of a router also share its
/// [budget](super::Builder::retry_budget).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    deadline: Duration,
    backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            deadline: Duration::from_secs(10),
            backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(250)),
        }
    }
}

impl Retry {
    /// Tries at most so often, the first time included; 0 counts as 1. Default 5.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Everything before the last COMMIT ends within this. Default 10 s. A COMMIT is not cut short by it, since that would make
    /// its outcome unknown; it has `commit_timeout`.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// The waits between two attempts. Default 5 ms, doubling up to 250 ms, with full jitter: transactions that have collided
    /// are short, and must not meet again.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// An attempt that failed.
struct Failed<E> {
    error: E,
    /// Nothing was applied, and it may go better next time.
    again: bool,
}

impl Db {
    /// Runs `work` in a transaction and commits it, again from the start where that is safe: nothing was sent, the server is
    /// read-only by now, the connection ended before COMMIT, or a conflict (40001, 40P01). A commit whose outcome is unknown is
    /// never repeated.
    ///
    /// `work` may run several times, so what it does outside of the transaction must bear that. Whatever error it returns rolls
    /// back; it is looked through ([`source`](StdError::source)) for what PostgreSQL has said. Inside a unit of work it runs once, in a savepoint: only the unit as a whole can be tried
    /// again.
    ///
    /// ```no_run
    /// # async fn example(db: ha_db::postgres::Db) -> Result<(), ha_db::postgres::Error> {
    /// let id: i64 = db
    ///     .run(async |tx| {
    ///         let row = tx.query_one("INSERT INTO orders DEFAULT VALUES RETURNING id", &[]).await?;
    ///         Ok::<_, ha_db::postgres::Error>(row.get(0))
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What the last attempt failed with: the error of `work`, or one of [`Db::transaction`] and
    /// [`Transaction::commit`]. [`Error::Timeout`] after the deadline.
    ///
    /// # Cancel safety
    /// Before COMMIT it is rolled back, and a statement that still runs is cancelled on the server. After that as
    /// [`Transaction::commit`].
    pub async fn run<T, E>(
        &self,
        work: impl AsyncFnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error> + StdError + 'static,
    {
        self.run_with(TransactionOptions::default(), Retry::default(), work)
            .await
    }

    /// As [`Db::run`], with options. If the transaction is [resolvable](TransactionOptions::resolvable), a commit without an answer
    /// is resolved: found applied it is a success, found not applied it is tried again, and only what cannot be told fails.
    ///
    /// # Errors
    /// As [`Db::run`].
    ///
    /// # Cancel safety
    /// As [`Db::run`].
    pub async fn run_with<T, E>(
        &self,
        options: TransactionOptions,
        retry: Retry,
        mut work: impl AsyncFnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error> + StdError + 'static,
    {
        let budget = &self.router().core.budget;
        budget.deposit(Instant::now());
        let end = after(retry.deadline);
        let nested = self.causal().unit().is_some();
        let mut attempt = 0;
        loop {
            let failed = match self.attempt(options, retry.deadline, end, &mut work).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let pause = retry.backoff.delay(attempt, fastrand::u64(..));
            attempt += 1;
            let in_time = after(pause) < end;
            let again = failed.again && !nested && in_time && attempt < retry.attempts;
            if !again || !budget.withdraw(Instant::now()) {
                return Err(failed.error);
            }
            tracing::debug!(
                attempt,
                error = &failed.error as &dyn StdError,
                "transaction tried again"
            );
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt<T, E>(
        &self,
        options: TransactionOptions,
        limit: Duration,
        end: tokio::time::Instant,
        work: &mut impl AsyncFnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, Failed<E>>
    where
        E: From<Error> + StdError + 'static,
    {
        let late = |what| Failed {
            error: E::from(Error::Timeout { what, limit }),
            again: false,
        };
        let begun = timeout_at(end, self.transaction_with(options)).await;
        let mut tx = begun
            .map_err(|_| late("beginning a transaction"))?
            .map_err(refused)?;
        // Dropped in here, it is rolled back, and what still runs on the server is cancelled.
        let done = timeout_at(end, work(&mut tx))
            .await
            .map_err(|_| late("a transaction"))?
            .map_err(|error| {
                self.heed(&error);
                Failed {
                    again: may_repeat(&error, tx.is_closed()),
                    error,
                }
            })?;
        match tx.commit().await {
            Ok(_) => Ok(done),
            Err(error) => {
                let Some(doubt) = error.in_doubt().copied() else {
                    return Err(refused(error));
                };
                match self.router().resolve(&doubt).await {
                    Ok(Outcome::Committed) => {
                        self.acknowledge(&doubt).await;
                        Ok(done)
                    }
                    Ok(Outcome::NotCommitted) => Err(Failed {
                        error: E::from(error),
                        again: true,
                    }),
                    Ok(Outcome::Unprovable) | Err(_) => Err(refused(error)),
                }
            }
        }
    }

    /// Has all nodes asked at once what they are, where an error says that one of them is not what it was.
    fn heed(&self, error: &(dyn StdError + 'static)) {
        if codes(error).any(is_news) {
            self.router().core.kick();
        }
    }

    /// A write whose position is not known is acknowledged after all: the client's token has to cover it from now on.
    async fn acknowledge(&self, doubt: &super::InDoubt) {
        let zero = Position::default();
        let view = self.router().core.view.load_full();
        // It is in the log of the newest timeline, which may have begun after it.
        let begun = Position {
            timeline: view.timeline,
            lsn: Lsn(0),
        };
        let written = doubt.position().max(begun);
        let token = Token::at(view.system_id.unwrap_or(0), written, zero);
        self.causal().advance(token.with_known(Known::Part));
        // Given back, it says where the primary stands, which is past the commit.
        drop(self.write().await);
    }

    /// Reads with a connection from [`Db::read_with`], again and elsewhere where the node is at fault: a conflict with recovery
    /// (40001, 40P01), or the end of the connection. The node is not ejected for that.
    ///
    /// `work` may run several times and must not write.
    ///
    /// # Errors
    /// What the last attempt failed with.
    ///
    /// # Cancel safety
    /// A statement that still runs is cancelled on the server.
    pub async fn run_read<T, E>(
        &self,
        consistency: Consistency,
        retry: Retry,
        mut work: impl AsyncFnMut(&Conn) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error> + StdError + 'static,
    {
        let budget = &self.router().core.budget;
        budget.deposit(Instant::now());
        let limit = retry.deadline;
        let end = after(limit);
        let late = |what| E::from(Error::Timeout { what, limit });
        let mut avoided = NodeSet::EMPTY;
        let mut attempt = 0;
        loop {
            let lent = timeout_at(end, self.read_avoiding(consistency, avoided)).await;
            let conn = lent.map_err(|_| late("waiting for a connection"))??;
            let read = timeout_at(end, work(&conn)).await;
            let error = match read.map_err(|_| late("a read"))? {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            self.heed(&error);
            let pause = retry.backoff.delay(attempt, fastrand::u64(..));
            attempt += 1;
            let in_time = after(pause) < end;
            let again = may_repeat(&error, conn.is_closed()) && in_time && attempt < retry.attempts;
            if !again || !budget.withdraw(Instant::now()) {
                return Err(error);
            }
            if let Some(index) = conn.index() {
                avoided = avoided.with(index);
            }
            drop(conn);
            tokio::time::sleep(pause).await;
        }
    }
}

fn refused<E: From<Error>>(error: Error) -> Failed<E> {
    Failed {
        again: error.is_retryable(),
        error: E::from(error),
    }
}

/// An error and what caused it.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// What PostgreSQL has said on the way.
fn codes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a SqlState> {
    chain(error).filter_map(|error| {
        error
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(tokio_postgres::Error::code)
            .or_else(|| error.downcast_ref::<DbError>().map(DbError::code))
    })
}

/// Whether a transaction that failed with `error`, and was not committed, may go better next time.
///
/// A commit of unknown outcome on the way, of some other transaction, forbids it. It is found by its cause, which shows also
/// through an error that passes its source on.
fn may_repeat(error: &(dyn StdError + 'static), connection_ended: bool) -> bool {
    let unknown = |error: &(dyn StdError + 'static)| {
        error.is::<CommitCause>() || error.downcast_ref().is_some_and(Error::is_unknown)
    };
    if chain(error).any(unknown) {
        return false;
    }
    let retryable =
        |error: &(dyn StdError + 'static)| error.downcast_ref().is_some_and(Error::is_retryable);
    connection_ended || codes(error).any(is_conflict) || chain(error).any(retryable)
}

/// The server is read-only, or ends or begins: it is not what it was taken for.
pub(crate) fn is_news(code: &SqlState) -> bool {
    [
        &SqlState::READ_ONLY_SQL_TRANSACTION,
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
    ]
    .contains(&code)
}

/// The server rolled it back and says that it may go better next time.
pub(crate) fn is_conflict(code: &SqlState) -> bool {
    [
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
        &SqlState::READ_ONLY_SQL_TRANSACTION,
    ]
    .contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum App {
        #[error(transparent)]
        Open(#[from] Error),
        #[error("wrapped")]
        Closed(#[source] Error),
    }

    fn unknown() -> Error {
        Error::CommitUnknown {
            node: "a".into(),
            source: CommitCause::Deadline,
            doubt: None,
        }
    }

    #[test]
    fn an_unknown_commit_on_the_way_is_never_repeated_however_it_is_wrapped() {
        for error in [App::Open(unknown()), App::Closed(unknown())] {
            assert!(!may_repeat(&error, true), "{error:?}");
            assert!(!may_repeat(&error, false), "{error:?}");
        }
        let full = || Error::Pool { node: "a".into() };
        assert!(may_repeat(&App::Closed(full()), false));
        assert!(may_repeat(&full(), false));
        let rolled_back = || Error::RolledBack { node: "a".into() };
        assert!(!may_repeat(&rolled_back(), false));
        assert!(
            may_repeat(&rolled_back(), true),
            "the connection ended before COMMIT"
        );
    }
}
