//! What can go wrong while programs are installed.

use std::io;

use super::Tool;

/// Why a tool is still missing. A caller that is a program prints this and exits with status 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// No package manager this module can drive; the text names the command, or says what is needed.
    #[error("{} missing; run: {command}", names(missing))]
    Manual {
        /// What is missing.
        missing: Vec<Tool>,
        /// What to run.
        command: String,
    },
    /// The package manager could not be run.
    #[error(
        "{} missing and the installation could not be started; run it by hand: {command}",
        names(missing)
    )]
    Run {
        /// What is missing.
        missing: Vec<Tool>,
        /// What was run.
        command: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The package manager failed. Its own words are on standard error.
    #[error(
        "{} missing and the installation failed with {status}; run it by hand to see why: {command}",
        names(missing)
    )]
    Failed {
        /// What is missing.
        missing: Vec<Tool>,
        /// What to run by hand.
        command: String,
        /// How it ended.
        status: String,
    },
    /// The package manager was content, yet the program is not where it is looked for.
    #[error(
        "{} installed but not found; set {} to the program's path, or run: {command}",
        names(missing),
        variables(missing)
    )]
    NotFound {
        /// What is missing.
        missing: Vec<Tool>,
        /// What was run.
        command: String,
    },
}

impl SetupError {
    /// What is missing.
    pub fn missing(&self) -> &[Tool] {
        match self {
            Self::Manual { missing, .. }
            | Self::Run { missing, .. }
            | Self::Failed { missing, .. }
            | Self::NotFound { missing, .. } => missing,
        }
    }

    /// The exact command for a person to run.
    pub fn command(&self) -> &str {
        match self {
            Self::Manual { command, .. }
            | Self::Run { command, .. }
            | Self::Failed { command, .. }
            | Self::NotFound { command, .. } => command,
        }
    }
}

pub(super) fn names(tools: &[Tool]) -> String {
    let names: Vec<_> = tools.iter().map(Tool::to_string).collect();
    format!(
        "{} {}",
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" }
    )
}

fn variables(tools: &[Tool]) -> String {
    tools
        .iter()
        .map(|tool| tool.env())
        .collect::<Vec<_>>()
        .join(", ")
}
