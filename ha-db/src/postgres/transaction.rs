//! Transactions on the primary.

use std::future::{Future as _, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::maybe_done;
use ha_core::backoff::Backoff;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::causal::Causal;
use super::conn::{Guard, Lease};
use super::db::lend_primary;
use super::deadline::after;
use super::error::CommitCause;
use super::give_back::SETTLE_LIMIT;
use super::lsn::{Lsn, Position};
use super::options::TransactionOptions;
use super::pool::{field, first_row};
use super::resolve;
use super::router::Router;
use super::savepoint::{Mark, Savepoint};
use super::stand::{STAND, Stand};
use super::token::Known;
use super::{Error, Token};

/// Fails in a transaction that has failed, where COMMIT would report success and roll back.
const BEFORE: &str = "SELECT pg_current_wal_insert_lsn(), txid_current_if_assigned() IS NOT NULL, \
    current_setting('synchronous_commit')";

/// Between two attempts to begin.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(4), Duration::from_millis(50));

/// A transaction: dereferences to the [`Client`]. Dropped without [`Transaction::commit`], it is rolled back, and the connection
/// is reused only after the server has confirmed that.
#[derive(Debug)]
pub struct Transaction(Inner);

#[derive(Debug)]
enum Inner {
    Outer(Option<Lease>),
    /// Inside a unit of work: a savepoint of its transaction.
    Nested(Option<(Guard, Mark)>),
}

/// Begins on the primary, trying again until `write_wait` has passed as long as nothing was sent.
pub(crate) async fn begin(
    router: &Router,
    causal: Option<&Causal>,
    options: &TransactionOptions,
) -> Result<Lease, Error> {
    let sql = options.begin();
    let core = &router.core;
    let limit = core.settings.write_wait;
    let end = after(limit);
    let mut attempt = 0;
    loop {
        let mut lease = lend_primary(core, causal, options.is_reserved(), true).await?;
        lease.begun();
        let begun = timeout(
            core.settings.connect_timeout,
            lease.client().simple_query(&sql),
        )
        .await;
        let error = match begun {
            Ok(Ok(rows)) if first_row(&rows).and_then(|row| field(row, 0)) == Some(0u8) => {
                if options.is_resolvable()
                    && let Some((xid, mark)) = first_row(&rows).and_then(resolve::begun)
                {
                    lease.resolvable(xid, mark);
                }
                return Ok(lease);
            }
            Ok(Ok(_)) => Error::ReadOnly {
                node: lease.name().to_owned(),
            },
            Ok(Err(error)) if error.is_closed() || error.code().is_some_and(is_ending) => {
                Error::NotSent {
                    node: lease.name().to_owned(),
                    source: error.into(),
                }
            }
            // A standby has no transaction numbers, and no position of its own to show.
            Ok(Err(error)) if error.code().is_some_and(is_of_a_standby) => Error::ReadOnly {
                node: lease.name().to_owned(),
            },
            Ok(Err(error)) => Error::Query(error),
            Err(_) => Error::Timeout {
                what: "BEGIN",
                limit: core.settings.connect_timeout,
            },
        };
        lease.discard();
        core.kick();
        let again = matches!(
            error,
            Error::NotSent { .. } | Error::ReadOnly { .. } | Error::Timeout { .. }
        );
        if !again || tokio::time::Instant::now() >= end {
            return Err(error);
        }
        // The pool has lost one stale connection per turn; the pause is for a primary that refuses at once.
        tokio::time::sleep(AGAIN.delay(attempt, fastrand::u64(..))).await;
        attempt = attempt.saturating_add(1);
    }
}

fn is_of_a_standby(code: &SqlState) -> bool {
    [
        &SqlState::READ_ONLY_SQL_TRANSACTION,
        &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ]
    .contains(&code)
}

fn is_ending(code: &SqlState) -> bool {
    [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
    ]
    .contains(&code)
}

type Answer = Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>;

/// What came back of a commit until its deadline.
struct Answers {
    before: Option<Answer>,
    committed: Option<Answer>,
    stand: Option<Vec<SimpleQueryMessage>>,
}

async fn exchange(client: &Client, limit: Duration) -> Answers {
    let mut before = pin!(maybe_done(client.simple_query(BEFORE)));
    let mut committed = pin!(maybe_done(client.simple_query("COMMIT")));
    let mut stand = pin!(maybe_done(client.simple_query(STAND)));
    // Polled in this order, so sent in this order, without waiting for each other.
    let outcome = poll_fn(|cx| {
        let done = before.as_mut().poll(cx).is_ready() & committed.as_mut().poll(cx).is_ready();
        let _ = stand.as_mut().poll(cx);
        if done { Poll::Ready(()) } else { Poll::Pending }
    });
    let _ = timeout(limit, outcome).await;
    let committed = committed.as_mut().take_output();
    if matches!(committed, Some(Ok(_))) {
        // It has a deadline of its own, so that a late position does not turn a known outcome into an unknown one.
        let _ = timeout(SETTLE_LIMIT, stand.as_mut()).await;
    }
    Answers {
        before: before.as_mut().take_output(),
        committed,
        stand: stand.as_mut().take_output().and_then(Result::ok),
    }
}

/// Commits and learns the position of the commit in one round trip.
pub(crate) async fn commit(lease: Lease) -> Result<Token, Error> {
    let limit = lease.core().settings.commit_timeout;
    let node = lease.name().to_owned();
    let unsettled = lease.committing();
    lease.ending(true);
    let Answers {
        before,
        committed,
        stand,
    } = exchange(lease.client(), limit).await;
    let doubt = lease.doubt();
    let unknown = |source| Error::CommitUnknown {
        node,
        source,
        doubt,
    };
    // A statement that has failed inside the transaction leaves COMMIT nothing but to roll back.
    let (refused, before) = match before {
        Some(Err(error)) => (Some(error), None),
        Some(Ok(before)) => (None, Some(before)),
        None => (None, None),
    };
    let error = match (refused.filter(is_refusal), committed) {
        (Some(error), _) => Some(error),
        (None, Some(Ok(_))) => None,
        (None, Some(Err(error))) => Some(error),
        (None, None) => {
            lease.discard();
            return Err(unknown(CommitCause::Deadline));
        }
    };
    if let Some(error) = error {
        if !is_refusal(&error) {
            lease.core().kick();
            lease.discard();
            return Err(unknown(CommitCause::Ended(error)));
        }
        if let Some(unsettled) = unsettled {
            unsettled.nothing();
        }
        lease.ending(false);
        let node = lease.name().to_owned();
        drop(lease);
        return Err(match error.code() {
            Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => Error::RolledBack { node },
            _ => Error::Query(error),
        });
    }
    // Committed for certain: from here on nothing is an error.
    let row = before.as_deref().and_then(first_row);
    let start: Option<Lsn> = row.and_then(|row| field(row, 0));
    let changed = row.is_none_or(|row| row.get(1) == Some("t"));
    // What the transaction has committed under, which may not be what the session is set to.
    let setting = row.and_then(|row| row.get(2));
    let under = |stand: Stand| setting.map_or(stand, |setting| stand.under(setting));
    let told = stand
        .and_then(|rows| Stand::read(&rows, Some(lease.timeline())))
        .map(under);
    let stand = match told {
        Some(stand) => Some(stand),
        // The connection has ended since. Whatever the primary has by now covers it, unless that is another one.
        None => ask_again(&lease).await.map(under),
    };
    let system_id = lease.system_id();
    let token = if let Some(stand) = stand {
        let written = if changed {
            stand.written(start)
        } else {
            Position::default()
        };
        if let Some(unsettled) = unsettled {
            unsettled.at(written, stand.visible(), stand.of_primary());
        }
        Token::at(system_id, written, stand.visible())
    } else {
        let written = Position {
            timeline: lease.timeline(),
            lsn: start.unwrap_or_default(),
        };
        if let Some(unsettled) = unsettled {
            unsettled.past(written, Known::Part);
        }
        Token::at(system_id, written, Position::default()).with_known(Known::Part)
    };
    let token = lease
        .causal()
        .and_then(Causal::token)
        .map_or(token, |known| known.join(token));
    if told.is_some() {
        lease.give_back_clean();
    } else {
        lease.discard();
    }
    Ok(token)
}

/// Where the primary stands, on another connection, if it is the one that this lease is of.
async fn ask_again(lease: &Lease) -> Option<Stand> {
    let asking = lease.core().ask_primary(None);
    let stand = timeout(SETTLE_LIMIT, asking).await.ok().flatten()?;
    (stand.position.timeline == lease.timeline()).then_some(stand)
}

/// Whether the server said no and the session goes on, as against an end of the session.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| db.severity() == "ERROR")
}

impl Transaction {
    pub(crate) async fn begin(
        router: &Router,
        causal: Option<&Causal>,
        options: &TransactionOptions,
    ) -> Result<Self, Error> {
        begin(router, causal, options)
            .await
            .map(|lease| Self(Inner::Outer(Some(lease))))
    }

    pub(crate) async fn nested(guard: Guard) -> Result<Self, Error> {
        let mark = Mark::set(&guard).await?;
        Ok(Self(Inner::Nested(Some((guard, mark)))))
    }

    pub(crate) fn lease(&self) -> &Lease {
        match &self.0 {
            Inner::Outer(Some(lease)) => lease,
            Inner::Nested(Some((guard, _))) => guard,
            _ => unreachable!("a transaction is used only before it ends"),
        }
    }

    /// The configured name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        self.lease().name()
    }

    /// Commits, and returns the token that covers it; a causal context has taken it up already. Inside a unit of work the
    /// savepoint is released, and the token is the one known before: the commit is the unit's.
    ///
    /// # Errors
    /// [`Error::CommitUnknown`] when the answer did not come: it may be applied. [`Error::RolledBack`] when a statement
    /// had failed, and [`Error::Query`] when the server refused: it is not applied.
    ///
    /// # Cancel safety
    /// Cancelled, the outcome is unknown: nobody was told of it, so the context's token does not cover it, and its reads
    /// prefer the primary until it has been used again. Inside a unit of work it is a part of the unit once it was polled.
    pub async fn commit(mut self) -> Result<Token, Error> {
        match &mut self.0 {
            Inner::Outer(lease) => match lease.take() {
                Some(lease) => commit(lease).await,
                None => unreachable!("commit consumes the transaction"),
            },
            Inner::Nested(open) => match open.take() {
                Some((guard, mark)) => {
                    mark.release(&guard).await?;
                    let nothing =
                        Token::at(guard.system_id(), Position::default(), Position::default());
                    Ok(guard.causal().and_then(Causal::token).unwrap_or(nothing))
                }
                None => unreachable!("commit consumes the transaction"),
            },
        }
    }

    /// A savepoint: a part of this transaction that can be undone alone. Inside it there can be more.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when a statement has failed already, [`Error::Query`], [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, Error> {
        Savepoint::set(self.lease()).await
    }

    /// Rolls back and waits for the server to say so.
    ///
    /// # Errors
    /// [`Error::Query`], [`Error::Timeout`]: the connection is closed, and with it the transaction ends. Inside a unit of work
    /// the connection stays, and the unit cannot commit what was to be undone.
    ///
    /// # Cancel safety
    /// Rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        match &mut self.0 {
            Inner::Outer(lease) => match lease.take() {
                Some(lease) => rollback(lease).await,
                None => unreachable!("rollback consumes the transaction"),
            },
            Inner::Nested(open) => match open.take() {
                Some((guard, mark)) => mark.undo(&guard).await,
                None => unreachable!("rollback consumes the transaction"),
            },
        }
    }
}

/// Rolls back, so that the connection can be used again; where that fails it is closed.
pub(crate) async fn rollback(lease: Lease) -> Result<(), Error> {
    let limit = lease.core().settings.commit_timeout;
    let error = match timeout(limit, lease.client().batch_execute("ROLLBACK")).await {
        Ok(Ok(())) => {
            lease.give_back_ended();
            return Ok(());
        }
        Ok(Err(error)) => Error::Query(error),
        Err(_) => {
            // Dropped, it is rolled back again, and what keeps it is cancelled.
            drop(lease);
            return Err(Error::Timeout {
                what: "ROLLBACK",
                limit,
            });
        }
    };
    lease.discard();
    Err(error)
}

impl Drop for Transaction {
    fn drop(&mut self) {
        match &mut self.0 {
            // The lease knows that it is inside a transaction.
            Inner::Outer(lease) => drop(lease.take()),
            Inner::Nested(open) => {
                if let Some((guard, mark)) = open.take() {
                    mark.abandon(&guard);
                }
            }
        }
    }
}

impl Deref for Transaction {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lease().client()
    }
}
