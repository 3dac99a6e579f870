//! What can go wrong while a server is started or broken on purpose.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a part of the bed could not be started, reached or changed.
///
/// Nothing needs to be undone after an error: what had been started already ends when the bed is dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A program is not installed. [`setup::ensure`](crate::setup::ensure) installs it, or says how.
    #[error("{part}: {tool} is not installed; run `{install}`")]
    MissingBinary {
        /// The part that needs it.
        part: String,
        /// What is missing.
        tool: crate::setup::Tool,
        /// The exact command that installs it.
        install: String,
    },
    /// The server found its port in use.
    #[error(
        "{part}: port {port} is taken by another process; end that one, or start again on another port\n{log}"
    )]
    PortTaken {
        /// The part that was started.
        part: String,
        /// The port in question.
        port: u16,
        /// The end of its log.
        log: String,
    },
    /// The file system is full.
    #[error("{part}: no space left under {}; free some, name another directory, or set TMPDIR to another file system\n{log}", dir.display())]
    DiskFull {
        /// The part that was started.
        part: String,
        /// Where it keeps its state.
        dir: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// The program ended instead of serving.
    #[error("{part}{}: ended with {status} before it was ready; its last words say what to change\n{log}", at(*port))]
    Exited {
        /// The part that was started.
        part: String,
        /// The port it was to serve on, where it has one.
        port: Option<u16>,
        /// Its exit status in words.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The awaited state did not come in time.
    #[error(
        "{part}{}: not {what} within {after:?}; last seen: {last}; when the machine is busy, run fewer beds at once or \
         allow more time, else its log says what is missing\n{log}",
        at(*port)
    )]
    Deadline {
        /// The part that was waited for.
        part: String,
        /// The port it serves on, where it has one.
        port: Option<u16>,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
        /// What the last look showed.
        last: String,
        /// The end of its log.
        log: String,
    },
    /// A directory cannot be used for state.
    #[error("{} cannot hold the bed's state: {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A file, directory or process could not be handled.
    #[error("{part}: could not {what}")]
    Io {
        /// The part concerned.
        part: String,
        /// What was tried.
        what: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// PostgreSQL refused a statement or a connection of the bed itself.
    #[error("{part}: could not {what}")]
    Postgres {
        /// The node concerned.
        part: String,
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Redis refused a command or a connection of the bed itself.
    #[error("{part}: could not {what}")]
    Redis {
        /// The node concerned.
        part: String,
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        #[source]
        source: ::redis::RedisError,
    },
    /// No such member.
    #[error("there is no {kind} number {index}, only {count}")]
    NoSuchPart {
        /// Which kind of part.
        kind: &'static str,
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

fn at(port: Option<u16>) -> String {
    port.map(|port| format!(" on port {port}"))
        .unwrap_or_default()
}

/// An error with all it was caused by, for the "last seen" of a deadline.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl StartError {
    pub(crate) fn io(part: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let part = part.to_owned();
        move |source| Self::Io { part, what, source }
    }

    /// As [`io`](Self::io), for a file below `dir`, whose file system may be full.
    pub(crate) fn file(
        part: &str,
        what: &'static str,
        dir: &Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let (part, dir) = (part.to_owned(), dir.to_owned());
        move |source| {
            if source.kind() == io::ErrorKind::StorageFull {
                let log = format!("could not {what}: {source}");
                Self::DiskFull { part, dir, log }
            } else {
                Self::Io { part, what, source }
            }
        }
    }

    pub(crate) fn postgres(
        part: &str,
        what: &'static str,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self + use<> {
        let part = part.to_owned();
        move |source| Self::Postgres { part, what, source }
    }

    pub(crate) fn redis(
        part: &str,
        what: &'static str,
    ) -> impl FnOnce(::redis::RedisError) -> Self + use<> {
        let part = part.to_owned();
        move |source| Self::Redis { part, what, source }
    }

    /// Whether another try on other ports can succeed.
    pub fn is_port_taken(&self) -> bool {
        matches!(self, Self::PortTaken { .. })
    }

    /// Whether something has to be installed first.
    pub fn is_missing_binary(&self) -> bool {
        matches!(self, Self::MissingBinary { .. })
    }

    /// Whether the file system is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Whether a deadline passed; the same call may succeed later.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}
