//! Finds the server programs and installs what is missing.
//!
//! Needs the standard library only, so that a build helper can use it without building anything else
//! (`default-features = false`).
//!
//! # Where programs are looked for
//!
//! 1. In an environment variable, when it is set: see [`Tool::env`]. It names the program itself.
//! 2. On `PATH`.
//! 3. Where packages put them although it is not on `PATH`: `/usr/lib/postgresql/*/bin` (Debian; the newest version
//!    wins), `/usr/pgsql-*/bin`, `/usr/sbin`, `/usr/local/bin`, `/opt/homebrew/bin`, `/opt/homebrew/opt/postgresql@*/bin`.
//!
//! # What is installed, and how
//!
//! [`ensure`] uses `apt-get` (as root, or through `sudo`) or `brew`. Installing a server must not start it: while
//! `apt-get` runs, a `policy-rc.d` answers that services stay down; one that is there already is respected. Debian's
//! packages still enable their services for the next boot; on a machine that is booted again, unlike a container or a CI
//! runner, `systemctl disable --now postgresql patroni etcd redis-server redis-sentinel` undoes that. The bed needs none of
//! them running.
//!
//! Where neither package manager can be used, or `HA_TESTBED_INSTALL=never` is in the environment, the error names the exact command for a person to run.

mod error;
mod find;
mod install;
mod tool;
mod user;

use std::path::PathBuf;

pub use error::SetupError;
pub use tool::Tool;
pub use user::{User, unprivileged_user};

use find::Places;
use install::{Machine, ensure_on};

/// Where `tool` is, or nothing when it is not installed.
///
/// For [`Tool::PythonEtcd`] the answer is the Python that has the module: the one that runs Patroni.
pub fn find(tool: Tool) -> Option<PathBuf> {
    Places::of_this_machine().find(tool)
}

/// Makes sure of `tools`: looks for each and installs what is missing. Progress is written to standard error.
///
/// # Errors
///
/// When something is missing and cannot be installed; the message names the command to run by hand.
pub fn ensure(tools: &[Tool]) -> Result<(), SetupError> {
    ensure_on(
        tools,
        &Places::of_this_machine,
        &Machine::this(),
        &mut std::io::stderr(),
    )
}

/// The command that installs `tools` on this machine, for messages.
pub fn install_command(tools: &[Tool]) -> String {
    Machine::this().command(tools)
}

#[cfg(test)]
mod tests;
