//! How a transaction is to run.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::IsolationLevel;

/// What a commit waits for: PostgreSQL's `synchronous_commit`, for one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SynchronousCommit {
    /// Nothing: a crash of the server loses the last moments. The token covers what was written, not what is on disk.
    Off,
    /// The primary's disk: a failover may lose it.
    Local,
    /// The operating system of a synchronous standby.
    RemoteWrite,
    /// The disk of a synchronous standby: a failover to it does not lose it.
    On,
    /// A synchronous standby shows it: a read there sees it without waiting.
    RemoteApply,
}

impl SynchronousCommit {
    const fn setting(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Local => "local",
            Self::RemoteWrite => "remote_write",
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }
}

/// How a transaction is to run. Whatever is not said stays as the server, the role or the connection string has it.
///
/// Everything is set within the round trip that begins the transaction, and ends with it.
///
/// ```
/// use std::time::Duration;
/// use ha_db::postgres::{SynchronousCommit, TransactionOptions};
///
/// let transfer = TransactionOptions::default()
///     .serializable()
///     .synchronous_commit(SynchronousCommit::RemoteApply)
///     .statement_timeout(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionOptions {
    isolation: Option<Isolation>,
    synchronous_commit: Option<SynchronousCommit>,
    statement_timeout: Option<Duration>,
    resolvable: bool,
    reserved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl TransactionOptions {
    /// Runs at this isolation level. `READ UNCOMMITTED` is `READ COMMITTED` in PostgreSQL.
    #[must_use]
    pub fn isolation(mut self, level: IsolationLevel) -> Self {
        self.isolation = Some(match level {
            IsolationLevel::Serializable => Isolation::Serializable,
            IsolationLevel::RepeatableRead => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        });
        self
    }

    /// Runs serializable: conflicts fail with 40001, which [`Db::run`](super::Db::run) tries again.
    #[must_use]
    pub fn serializable(self) -> Self {
        self.isolation(IsolationLevel::Serializable)
    }

    /// What the commit waits for.
    #[must_use]
    pub fn synchronous_commit(mut self, level: SynchronousCommit) -> Self {
        self.synchronous_commit = Some(level);
        self
    }

    /// How long one statement may run before the server cancels it with 57014, counted in milliseconds from 1. PostgreSQL does not
    /// count the commit, so it can wait for a standby.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = Some(limit);
        self
    }

    /// Makes the outcome of a commit without an answer something that [`Router::resolve`](super::Router::resolve) can find out.
    /// It costs no round trip, but a transaction number and some 60 bytes of log, also when nothing is written.
    #[must_use]
    pub fn resolvable(mut self) -> Self {
        self.resolvable = true;
        self
    }

    /// On a connection that is kept for the work of this crate, so that a full pool does not stop it.
    pub(crate) fn reserved(mut self) -> Self {
        self.reserved = true;
        self
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved
    }

    pub(crate) fn is_resolvable(&self) -> bool {
        self.resolvable
    }

    /// One round trip: begins, and says whether the node is a standby; if it has to be resolvable, also the transaction's
    /// number, a position of the log that follows a record under this number, and the timeline.
    pub(crate) fn begin(&self) -> String {
        let mut sql = String::from("BEGIN");
        if let Some(level) = self.isolation {
            sql.push_str(match level {
                Isolation::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
                Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
                Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
            });
        }
        if let Some(level) = self.synchronous_commit {
            let _ = write!(sql, "; SET LOCAL synchronous_commit TO {}", level.setting());
        }
        if let Some(limit) = self.statement_timeout {
            let millis = limit.as_millis().clamp(1, i32::MAX as u128);
            let _ = write!(sql, "; SET LOCAL statement_timeout TO {millis}");
        }
        sql.push_str(if self.resolvable {
            "; SELECT pg_is_in_recovery()::int, txid_current(), pg_logical_emit_message(true, 'ha-db', ''), \
             ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
        } else {
            "; SELECT pg_is_in_recovery()::int"
        });
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_sent() {
        let plain = TransactionOptions::default().begin();
        assert_eq!(plain, "BEGIN; SELECT pg_is_in_recovery()::int");
        let all = TransactionOptions::default()
            .serializable()
            .synchronous_commit(SynchronousCommit::RemoteApply)
            .statement_timeout(Duration::from_micros(3))
            .begin();
        assert_eq!(
            all,
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL synchronous_commit TO remote_apply; \
             SET LOCAL statement_timeout TO 1; SELECT pg_is_in_recovery()::int"
        );
    }
}
