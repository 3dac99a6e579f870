use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ha_testbed::StartError;

use crate::part::UnknownName;
use crate::{client, keys, port, state};

/// Why the cluster could not be started or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such part.
    #[error(transparent)]
    UnknownName(#[from] UnknownName),
    /// The part is dead, so it can be neither killed nor stopped.
    #[error("{name} is dead already; `start {name}` brings it back")]
    Dead {
        /// Which part.
        name: String,
    },
    /// The part runs, so it cannot be started.
    #[error("{name} is running already")]
    Running {
        /// Which part.
        name: String,
    },
    /// The part is not an app, and only apps can be made to misbehave.
    #[error("{name} is not an app")]
    NotAnApp {
        /// Which part.
        name: String,
    },
    /// The disk has too little room to begin with.
    #[error("only {free} MiB are free in {}, a cluster needs {needed} MiB; free some or choose another place with --dir DIR", dir.display())]
    NoSpace {
        /// Where.
        dir: PathBuf,
        /// What there is.
        free: u64,
        /// What it takes.
        needed: u64,
    },
    /// The disk filled up while the cluster was starting.
    #[error("the disk under {} is full; free some of it or choose another place with --dir DIR", dir.display())]
    DiskFull {
        /// Where.
        dir: PathBuf,
        /// What failed for it, if anything had when it was noticed.
        source: Option<Box<Error>>,
    },
    /// The edges' port is not to be had.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// The directory cannot be used.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The key file cannot be written.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// A part did not start, or could not be broken.
    #[error(transparent)]
    Part(Box<StartError>),
    /// The admin address of a part did not answer.
    #[error("{name} cannot be asked")]
    Admin {
        /// Which part.
        name: String,
        /// Why.
        source: client::Error,
    },
    /// The admin address of a part refused.
    #[error("{name} answered with status {status}")]
    AdminRefused {
        /// Which part.
        name: String,
        /// How.
        status: u16,
    },
    /// Not everything works again.
    #[error("after {after:?} the cluster is still not whole: {}", missing.join("; "))]
    NotWhole {
        /// What was waited.
        after: Duration,
        /// What is not as it should be.
        missing: Vec<String>,
    },
    /// The system refused something.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        Self::Part(Box::new(error))
    }
}

impl Error {
    /// Whether the request made no sense, as opposed to having failed.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::UnknownName(_) | Self::Dead { .. } | Self::Running { .. } | Self::NotAnApp { .. }
        )
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::DiskFull { .. } => true,
            Self::Part(error) => error.is_disk_full(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
