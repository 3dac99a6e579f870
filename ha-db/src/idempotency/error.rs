use tokio_postgres::error::SqlState;

use crate::postgres;

/// Why a keyed write has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key was used before, for something else. Nothing was done.
    #[error("the key belongs to a different request")]
    KeyReused,
    /// Another run under this key has not ended within the wait. Nothing was done; try again later.
    #[error("a request with this key is still running")]
    Busy,
    /// A statement had failed before the outcome could be stored, so everything was rolled back.
    #[error("the transaction had failed, everything was rolled back")]
    RolledBack,
    /// The connection broke during the commit: write and outcome are either both there or both not. Trying again under the
    /// same key finds out, and does the work only if it is not there.
    #[error("the outcome of the commit is unknown")]
    CommitUnknown(#[source] postgres::Error),
    /// The database could not be used. Nothing was committed.
    #[error("the database could not be used")]
    Database(#[source] postgres::Error),
    /// What is stored under the key is not understood by this version. Nothing was done.
    #[error("the stored outcome has an unknown format")]
    Format,
}

impl Error {
    /// The write may have been applied; only trying again under the same key tells.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::CommitUnknown(_))
    }

    /// Trying again later under the same key is right and can succeed. It never applies the write twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy | Self::CommitUnknown(_) => true,
            // What is no answer of the server is a broken connection, and before the commit that is a rollback.
            Self::Database(postgres::Error::Query(error)) if error.as_db_error().is_none() => true,
            Self::Database(postgres::Error::Query(error)) if is_shutdown(error) => true,
            Self::Database(error) => error.is_unavailable() || error.is_retryable(),
            Self::KeyReused | Self::RolledBack | Self::Format => false,
        }
    }
}

fn is_shutdown(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
        ]
        .contains(&code)
    })
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error {
            postgres::Error::RolledBack { .. } => Self::RolledBack,
            error if error.is_unknown() => Self::CommitUnknown(error),
            error => Self::Database(error),
        }
    }
}
