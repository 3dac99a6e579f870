//! Runs one external command after the other and says what it does.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

/// Why a command of xtask ended without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A tool is missing and could not be installed; the text says what to run.
    Setup(String),
    /// A step ran and failed.
    Step { label: String, status: ExitStatus },
    /// A program could not be started.
    Start { program: String, source: io::Error },
    /// A file could not be read or written.
    File { path: String, source: io::Error },
    /// A benchmark's result does not have the expected form.
    Result { path: String, what: String },
}

impl Failure {
    /// 2 where the user has to do something first, 1 where a check failed.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Setup(_) | Self::Start { .. } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(text) => f.write_str(text),
            Self::Step { label, status } => write!(f, "{label} failed ({status})"),
            Self::Start { program, source } => write!(f, "cannot start {program}: {source}"),
            Self::File { path, source } => write!(f, "{path}: {source}"),
            Self::Result { path, what } => write!(f, "{path}: {what}"),
        }
    }
}

/// One external command.
#[derive(Debug)]
pub(crate) struct Step {
    label: String,
    command: Command,
}

impl Step {
    /// A call of the cargo that runs this program.
    pub(crate) fn cargo<I: AsRef<OsStr>>(label: &str, args: impl IntoIterator<Item = I>) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(args).current_dir(workspace());
        Self {
            label: label.to_owned(),
            command,
        }
    }

    /// A call of cargo through rustup, which understands `+toolchain`.
    pub(crate) fn rustup_cargo<I: AsRef<OsStr>>(
        label: &str,
        args: impl IntoIterator<Item = I>,
    ) -> Self {
        let mut command = Command::new("cargo");
        // What the cargo that runs this program says about itself would bind the other one to its toolchain.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(name);
        }
        command.args(args).current_dir(workspace());
        Self {
            label: label.to_owned(),
            command,
        }
    }

    pub(crate) fn args<I: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn run(mut self) -> Result<(), Failure> {
        eprintln!("==> {}", self.label);
        let started = Instant::now();
        let status = self.command.status().map_err(|source| self.start(source))?;
        if !status.success() {
            return Err(Failure::Step {
                label: self.label,
                status,
            });
        }
        eprintln!(
            "    {} took {:.1} s",
            self.label,
            started.elapsed().as_secs_f32()
        );
        Ok(())
    }

    /// Runs the command and gives what it printed on standard output.
    pub(crate) fn output(mut self) -> Result<Vec<u8>, Failure> {
        let output = self.command.output().map_err(|source| self.start(source))?;
        if !output.status.success() {
            return Err(Failure::Step {
                label: self.label,
                status: output.status,
            });
        }
        Ok(output.stdout)
    }

    fn start(&self, source: io::Error) -> Failure {
        Failure::Start {
            program: self.command.get_program().to_string_lossy().into_owned(),
            source,
        }
    }
}

/// The root of the workspace: the folder above this package.
fn workspace() -> std::path::PathBuf {
    let mut root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
