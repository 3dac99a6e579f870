use tokio_postgres::error::SqlState;

use super::Loss;
use crate::postgres;

/// Why a lease could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is empty, longer than 255 bytes or contains a zero byte.
    #[error("a lease's name of {len} bytes: it must have 1 to 255, none of them zero")]
    Name {
        /// Its length.
        len: usize,
    },
    /// The times do not fit together.
    #[error("the times of the lease do not fit together")]
    Config(#[from] ha_core::config::ConfigError),
    /// The table is missing: call [`migrate`](super::migrate).
    #[error("the table of leases is missing")]
    NotMigrated(#[source] postgres::Error),
    /// The lease is not held any more.
    #[error("the lease is lost")]
    Lost(#[from] Loss),
    /// The database.
    #[error("the database failed the lease")]
    Database(#[source] postgres::Error),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match &error {
            postgres::Error::Query(query) if query.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                Self::NotMigrated(error)
            }
            _ => Self::Database(error),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        postgres::Error::from(error).into()
    }
}

impl Error {
    /// Whether the lease is not held any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Whether asking again would fail alike: a missing table, a missing right.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Database(postgres::Error::Query(error)) => error
                .code()
                .is_some_and(|code| code.code().starts_with("42")),
            Self::Database(_) => false,
            _ => true,
        }
    }
}
