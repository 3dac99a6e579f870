//! What the beds of all kinds of servers have in common.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    StartError,
    process::Bed,
    setup::{self, Tool},
};

/// What every bed's builder lets choose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices {
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) dir: Option<PathBuf>,
}

/// The choices every bed's builder offers in its field `choices`, and its `start`.
macro_rules! builder_choices {
    ($file:literal, start: $start:literal, errors: $errors:literal) => {
        #[doc = concat!("A setting of `", $file, "`, on all nodes; wins over the bed's own.")]
        #[must_use]
        pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.choices.settings.push((key.into(), value.into()));
            self
        }

        /// Keeps the state in `dir`, which stays afterwards; see [`Bed::at`](crate::process::Bed::at).
        #[must_use]
        pub fn dir(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
            self.choices.dir = Some(dir.into());
            self
        }

        #[doc = $start]
        ///
        /// # Errors
        ///
        #[doc = concat!($errors, "; the message holds the end of its log.")]
        ///
        /// # Cancel safety
        ///
        /// What has been started ends when the future is dropped.
        pub async fn start(self) -> Result<Cluster, StartError> {
            crate::ports::elsewhere(async || self.start_once().await).await
        }
    };
}

/// The choice of how many replicas there are, for a builder with that field.
macro_rules! builder_replicas {
    ($doc:literal) => {
        #[doc = $doc]
        #[must_use]
        pub fn replicas(mut self, replicas: usize) -> Self {
            self.replicas = replicas;
            self
        }
    };
}

/// What can be done to a node that is one process on one port.
macro_rules! node_controls {
    () => {
        /// Its address.
        pub fn addr(&self) -> std::net::SocketAddr {
            (std::net::Ipv4Addr::LOCALHOST, self.port).into()
        }

        /// Kills it and all its helpers, as a loss of power would.
        ///
        /// # Errors
        ///
        /// See [`Process::kill`].
        pub async fn kill(&self) -> Result<(), StartError> {
            self.process.kill().await
        }

        /// Stops all of it, the helpers first; connections stay open and get no answers.
        ///
        /// # Errors
        ///
        /// See [`Process::freeze`].
        pub fn freeze(&self) -> Result<(), StartError> {
            self.process.freeze()
        }

        /// Lets it go on.
        ///
        /// # Errors
        ///
        /// See [`Process::thaw`].
        pub fn thaw(&self) -> Result<(), StartError> {
            self.process.thaw()
        }

        /// Starts it after a kill, in the role its files say, and returns when it answers.
        ///
        /// # Errors
        ///
        /// When it does not answer in a minute.
        pub async fn start(&self) -> Result<(), StartError> {
            self.process.start()?;
            self.wait_ready().await
        }

        /// Kills it and starts it again.
        ///
        /// # Errors
        ///
        /// See [`kill`](Self::kill) and [`start`](Self::start).
        pub async fn restart(&self) -> Result<(), StartError> {
            self.kill().await?;
            self.start().await
        }
    };
}

pub(crate) use {builder_choices, builder_replicas, node_controls};

/// The node with this number.
pub(crate) fn member<T>(nodes: &[T], index: usize) -> Result<&T, StartError> {
    nodes.get(index).ok_or(StartError::NoSuchPart {
        kind: "node",
        index,
        count: nodes.len(),
    })
}

/// Writes a configuration file that its server may change.
pub(crate) fn write_configuration(
    bed: &Bed,
    part: &str,
    file: &Path,
    text: &str,
) -> Result<(), StartError> {
    fs::write(file, text).map_err(bed.failed(part, "write the configuration"))?;
    bed.give(file)
        .map_err(bed.failed(part, "hand the configuration over"))
}

/// Where `tool` is.
pub(crate) fn program(part: &str, tool: Tool) -> Result<PathBuf, StartError> {
    setup::find(tool).ok_or_else(|| StartError::MissingBinary {
        part: part.to_owned(),
        tool,
        install: setup::install_command(&[tool]),
    })
}

/// The directory PostgreSQL's programs are in.
pub(crate) fn postgres_programs(part: &str) -> Result<PathBuf, StartError> {
    let server = program(part, Tool::Postgres)?;
    Ok(server.parent().map_or_else(PathBuf::new, Path::to_owned))
}
