//! Transactions on the primary.

use std::ops::Deref;

use futures_util::FutureExt as _;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::causal::Causal;
use super::conn::{Lease, STAND, Stand};
use super::lsn::{Lsn, Position};
use super::pool::{field, first_row};
use super::router::Router;
use super::{Error, Token};

/// Fails in a transaction that has failed, where COMMIT would report success and roll back.
const BEFORE: &str = "SELECT pg_current_wal_insert_lsn(), current_setting('synchronous_commit'), \
    pg_current_xact_id_if_assigned() IS NOT NULL";

const SAVEPOINT: &str = "SAVEPOINT ha_db_nested";
const RELEASE: &str = "RELEASE SAVEPOINT ha_db_nested";
const UNDO: &str = "ROLLBACK TO SAVEPOINT ha_db_nested; RELEASE SAVEPOINT ha_db_nested";

/// A transaction: dereferences to the [`Client`]. Dropped without [`Transaction::commit`], it is rolled back, and the connection
/// is reused only after the server has confirmed that.
#[derive(Debug)]
pub struct Transaction(Inner);

#[derive(Debug)]
enum Inner {
    Outer(Option<Lease>),
    /// Inside a unit of work: a savepoint of its transaction.
    Nested(Option<OwnedMutexGuard<Lease>>),
}

/// Begins on the primary, trying again until `write_wait` has passed as long as nothing was sent.
pub(crate) async fn begin(router: &Router, causal: Option<&Causal>) -> Result<Lease, Error> {
    let core = &router.core;
    let limit = core.settings.write_wait;
    let end = tokio::time::Instant::now() + limit;
    let needed = causal
        .and_then(Causal::token)
        .map_or(0, |token| token.timeline());
    loop {
        let (index, object) = core.primary(needed).await?;
        let lease = Lease::new(router, index, object, causal.cloned(), true);
        let begun = timeout(
            core.settings.connect_timeout,
            lease
                .client()
                .simple_query("BEGIN; SELECT pg_is_in_recovery()::int"),
        )
        .await;
        let error = match begun {
            Ok(Ok(rows)) if first_row(&rows).and_then(|row| field(row, 0)) == Some(0u8) => {
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
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

fn is_ending(code: &SqlState) -> bool {
    [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
    ]
    .contains(&code)
}

/// Commits and learns the position of the commit in one round trip.
pub(crate) async fn commit(lease: Lease) -> Result<Token, Error> {
    let limit = lease.core().settings.commit_timeout;
    let node = lease.name().to_owned();
    // Until the outcome is known the context must not claim to know where this client stands.
    let unsettled = lease.unsettled();
    let client = lease.client();
    // Polled in this order, so sent in this order, without waiting for each other.
    let all = async {
        tokio::join!(
            biased;
            client.simple_query(BEFORE),
            client.simple_query("COMMIT"),
            client.simple_query(STAND),
        )
    };
    let Ok((before, committed, stand)) = timeout(limit, all).await else {
        lease.discard();
        return Err(Error::CommitUnknown { node, source: None });
    };
    let before = match before {
        Ok(before) => before,
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            if let Some(unsettled) = unsettled {
                unsettled.nothing();
            }
            lease.give_back_rolled_back();
            return Err(Error::RolledBack { node });
        }
        Err(source) => {
            lease.core().kick();
            lease.discard();
            return Err(Error::CommitUnknown {
                node,
                source: Some(source),
            });
        }
    };
    if let Err(error) = committed {
        let definite = error
            .as_db_error()
            .is_some_and(|db| db.severity() == "ERROR");
        if definite {
            if let Some(unsettled) = unsettled {
                unsettled.nothing();
            }
            lease.give_back_rolled_back();
            return Err(Error::Query(error));
        }
        lease.core().kick();
        lease.discard();
        return Err(Error::CommitUnknown {
            node,
            source: Some(error),
        });
    }
    let stand = stand
        .ok()
        .and_then(|rows| Stand::read(&rows, lease.known_timeline()));
    let system_id = lease.system_id();
    let Some(stand) = stand else {
        // Committed for certain, but where is not known: the dropped mark says "primary only".
        drop(unsettled);
        let token =
            Token::at(system_id, Position::default(), Position::default()).with_primary_only(true);
        lease.discard();
        return Ok(token);
    };
    let (written, seen) = positions(&before, stand);
    if let Some(unsettled) = unsettled {
        unsettled.at(written, seen);
    }
    let token = Token::at(system_id, written, seen);
    let token = lease
        .causal()
        .and_then(Causal::token)
        .map_or(token, |known| known.join(token));
    lease.give_back_clean();
    Ok(token)
}

/// The end of the commit and the newest state that the transaction can have seen.
fn positions(before: &[tokio_postgres::SimpleQueryMessage], stand: Stand) -> (Position, Position) {
    let position = stand.position;
    let Some(row) = first_row(before) else {
        return (position, position);
    };
    if row.get(2) != Some("t") {
        return (Position::default(), position);
    }
    let inserted: Option<Lsn> = field(row, 0);
    let lsn = match row.get(1) {
        Some("off") => stand.inserted.unwrap_or(position.lsn),
        // What a synchronous standby has confirmed past the start of this commit covers the commit.
        Some("on" | "remote_apply") => stand
            .confirmed
            .filter(|confirmed| inserted.is_some_and(|inserted| *confirmed > inserted))
            .unwrap_or(position.lsn),
        _ => position.lsn,
    };
    (Position { lsn, ..position }, position)
}

impl Transaction {
    pub(crate) async fn begin(router: &Router, causal: Option<&Causal>) -> Result<Self, Error> {
        begin(router, causal)
            .await
            .map(|lease| Self(Inner::Outer(Some(lease))))
    }

    pub(crate) async fn nested(guard: OwnedMutexGuard<Lease>) -> Result<Self, Error> {
        guard.client().batch_execute(SAVEPOINT).await?;
        Ok(Self(Inner::Nested(Some(guard))))
    }

    fn lease(&self) -> &Lease {
        match &self.0 {
            Inner::Outer(Some(lease)) => lease,
            Inner::Nested(Some(guard)) => guard,
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
    /// Cancelled, the outcome is unknown, the connection is closed and the context's token says "primary only".
    pub async fn commit(mut self) -> Result<Token, Error> {
        match &mut self.0 {
            Inner::Outer(lease) => match lease.take() {
                Some(lease) => commit(lease).await,
                None => unreachable!("commit consumes the transaction"),
            },
            Inner::Nested(guard) => {
                let released = match &*guard {
                    Some(guard) => guard.client().batch_execute(RELEASE).await,
                    None => unreachable!("commit consumes the transaction"),
                };
                match released {
                    Ok(()) => {
                        let guard = guard.take();
                        let known = guard.and_then(|guard| {
                            let unknown = Token::at(
                                guard.system_id(),
                                Position::default(),
                                Position::default(),
                            );
                            Some(guard.causal()?.token().unwrap_or(unknown))
                        });
                        Ok(known.unwrap_or(Token::at(0, Position::default(), Position::default())))
                    }
                    Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                        Err(Error::RolledBack {
                            node: self.node().to_owned(),
                        })
                    }
                    Err(error) => Err(Error::Query(error)),
                }
            }
        }
    }

    /// Rolls back and waits for the server to say so.
    ///
    /// # Errors
    /// [`Error::Query`], [`Error::Timeout`]: the connection is closed, and with it the transaction ends.
    ///
    /// # Cancel safety
    /// Rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let limit = self.lease().core().settings.commit_timeout;
        let sql = if matches!(self.0, Inner::Outer(_)) {
            "ROLLBACK"
        } else {
            UNDO
        };
        let done = timeout(limit, self.lease().client().batch_execute(sql)).await;
        done.map_err(|_| Error::Timeout {
            what: "ROLLBACK",
            limit,
        })??;
        match &mut self.0 {
            Inner::Outer(lease) => {
                if let Some(lease) = lease.take() {
                    lease.give_back_clean();
                }
            }
            Inner::Nested(guard) => drop(guard.take()),
        }
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        match &mut self.0 {
            Inner::Outer(lease) => {
                if let Some(lease) = lease.take() {
                    lease.give_back_rolled_back();
                }
            }
            Inner::Nested(guard) => {
                if let Some(guard) = guard.take() {
                    // The first poll sends; whoever gets the connection next is served after it.
                    let _ = guard.client().batch_execute(UNDO).now_or_never();
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
