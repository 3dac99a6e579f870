//! What can go wrong, and what it says about the statement that was meant to run.

use std::time::Duration;

use super::lsn::Position;
use super::resolve::InDoubt;
use super::role::NoPrimary;

/// An operation failed. The variant says whether anything was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing reached a server; doing it again is safe.
    #[error("nothing was sent to {node}")]
    NotSent {
        /// The node that was tried last.
        node: String,
        /// Why.
        source: ConnectError,
    },
    /// The server refuses writes; nothing was changed, and doing it again on the new primary is safe.
    #[error("{node} is read-only")]
    ReadOnly {
        /// The node that refused.
        node: String,
    },
    /// The connection ended, or the deadline passed, between COMMIT and its answer: the transaction may be applied or
    /// not. Doing it again may apply it twice, unless it carries a key that makes it idempotent.
    #[error("no answer to the commit on {node}, its outcome is unknown")]
    CommitUnknown {
        /// The node that was asked to commit.
        node: String,
        /// What ended the wait for the answer.
        source: CommitCause,
        /// With [`TransactionOptions::resolvable`](super::TransactionOptions::resolvable): what
        /// [`Router::resolve`](super::Router::resolve) needs to find the outcome.
        doubt: Option<Box<InDoubt>>,
    },
    /// The transaction had failed before the commit was asked for; the server rolled it back.
    #[error("the transaction on {node} had already failed and was rolled back")]
    RolledBack {
        /// The node it ran on.
        node: String,
    },
    /// An acknowledged write of this client did not survive a failover, or cannot be shown to have: where in the log it ended could not
    /// be asked any more of the server that acknowledged it. Reported once: after it the client's token stands at the point up to
    /// which the log survived.
    #[error("the write at {written} is gone: the log was cut at {switch}")]
    Lost {
        /// The end of the lost write.
        written: Position,
        /// The end of what the new timeline kept of the old one.
        switch: Position,
    },
    /// No node accepts writes, and none did until the deadline. Nothing was sent.
    #[error("no primary after {waited:?}: {reason:?}")]
    NoPrimary {
        /// How long was waited.
        waited: Duration,
        /// Why there is none.
        reason: NoPrimary,
    },
    /// No node may serve this read. Nothing was sent.
    #[error("no node can serve this read within its consistency")]
    NoReplica,
    /// A deadline of ours passed. For reads and before a commit nothing was changed.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was being done.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// Every connection to the node is in use; the node itself is not at fault. Nothing was sent.
    #[error("all connections to {node} are in use")]
    Pool {
        /// The node.
        node: String,
    },
    /// The token belongs to another database cluster.
    #[error("token of database cluster {token}, this one is {ours}")]
    ForeignToken {
        /// The cluster in the token.
        token: u64,
        /// The cluster of this router.
        ours: u64,
    },
    /// The token claims a position far past everything that has been written. It was not made by this cluster in its
    /// present life (a restored backup, for one).
    #[error("token position {position} is far past the end of the log")]
    ImplausibleToken {
        /// The claimed position.
        position: Position,
    },
    /// The unit of work that this belonged to has ended meanwhile. Nothing was sent.
    #[error("the unit of work has ended")]
    UnitEnded,
    /// A unit of work was to begin while one is open in the same context. Nothing was sent.
    #[error("a unit of work is open already")]
    UnitOpen,
    /// The server answered with an error.
    #[error("the query failed")]
    Query(#[from] tokio_postgres::Error),
}

/// What ended the wait for the answer to a commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitCause {
    /// The deadline.
    #[error("it did not come in time")]
    Deadline,
    /// The end of the connection, or of the server.
    #[error("the connection ended")]
    Ended(#[source] tokio_postgres::Error),
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server could not be reached or refused the session.
    #[error("connecting failed")]
    Postgres(#[from] tokio_postgres::Error),
    /// Connecting took longer than our deadline.
    #[error("connecting took longer than {limit:?}")]
    Timeout {
        /// The deadline.
        limit: Duration,
    },
    /// The node's certificate was refused.
    #[cfg(feature = "tls")]
    #[error("the node's certificate was refused: {problem:?}")]
    Certificate {
        /// What is wrong with it.
        problem: super::CertificateProblem,
        /// In rustls' words.
        source: tokio_postgres::Error,
    },
    /// The node is no longer what the last probe saw (restarted, promoted, demoted, replaced).
    #[error("the node changed since it was last probed")]
    Changed,
    /// No node of the router has this name.
    #[error("no node is named {name:?}")]
    Unnamed {
        /// The name.
        name: String,
    },
    /// The router has been shut down.
    #[error("the connection pool is closed")]
    Closed,
}

impl Error {
    /// Whether doing the same again is safe and may succeed: nothing was applied.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotSent { .. }
            | Self::ReadOnly { .. }
            | Self::NoPrimary { .. }
            | Self::NoReplica
            | Self::Pool { .. } => true,
            Self::Query(error) => error.code().is_some_and(super::run::is_conflict),
            _ => false,
        }
    }

    /// What [`Router::resolve`](super::Router::resolve) needs to find out an unknown outcome, if the transaction was
    /// [resolvable](super::TransactionOptions::resolvable).
    #[must_use]
    pub fn in_doubt(&self) -> Option<&InDoubt> {
        match self {
            Self::CommitUnknown { doubt, .. } => doubt.as_deref(),
            _ => None,
        }
    }

    /// Whether the outcome is unknown: neither "applied" nor "not applied" may be assumed.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::CommitUnknown { .. })
    }

    /// Whether the database could not be reached or is short of capacity: a `503`, not a `500`.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NotSent { .. }
                | Self::ReadOnly { .. }
                | Self::NoPrimary { .. }
                | Self::NoReplica
                | Self::Pool { .. }
                | Self::Timeout { .. }
        ) || self.is_unknown()
            || self.is_disconnected()
    }

    /// Whether the connection ended under a query.
    pub(crate) fn is_disconnected(&self) -> bool {
        matches!(self, Self::Query(error) if is_disconnect(error))
    }

    /// Whether an acknowledged write of this client is gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// The connection ended under the query, or the server said that it is about to end or to begin.
fn is_disconnect(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        // Connection exceptions and operator intervention.
        Some(code) => matches!(code.code().get(..2), Some("08" | "57")),
        None => {
            error.is_closed()
                || std::error::Error::source(error)
                    .is_some_and(|cause| cause.is::<std::io::Error>())
        }
    }
}
