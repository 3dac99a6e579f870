//! Why a drill could not be carried out.

use crate::cluster;

/// Something that kept a phase from being carried out at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cluster refused.
    #[error("cannot {action}")]
    Cluster {
        action: String,
        source: cluster::Error,
    },
    /// There is nothing that could be broken.
    #[error("there is no {0} to break")]
    Nobody(&'static str),
    /// A server could not be made to lag.
    #[error("cannot hold back a replica")]
    Postgres(#[source] tokio_postgres::Error),
    /// The primary could not be asked for the truth.
    #[error("cannot read the notes from the primary")]
    Truth(#[source] tokio_postgres::Error),
    /// There was no primary to ask.
    #[error("there is no primary to read the notes from")]
    NoPrimary,
    /// A server did not do what the drill needs.
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        source: std::io::Error,
    },
}

/// Says what the cluster was told to do when it refused.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, cluster::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Cluster {
            action: action(),
            source,
        })
    }
}
