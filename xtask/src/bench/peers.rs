//! The workspace of those peers that are too big for this one.

use std::env;
use std::path::{Path, PathBuf};

use crate::run::{Failure, Step};

const MANIFEST: &str = "benches/peers/Cargo.toml";

/// The benches of the other workspace, built.
#[derive(Debug)]
pub(super) struct Peers {
    target: PathBuf,
}

impl Peers {
    /// Builds them. Without them the other columns are as good as ever, so that what is missing is said and no failure.
    pub(super) fn build(target: &Path) -> Option<Self> {
        let peers = Self {
            target: target.join("peers"),
        };
        let built = if on_path("cmake") {
            peers.step("build pingora's benches", &["--no-run"]).run()
        } else {
            Err(Failure::Setup(format!(
                "pingora is built with cmake, which is missing; run: {}",
                install_command(env::consts::OS)
            )))
        };
        match built {
            Ok(()) => Some(peers),
            Err(failure) => {
                eprintln!("xtask: the column `pingora` is left out: {failure}");
                None
            }
        }
    }

    pub(super) fn bench(&self, bench: &str) -> Step {
        let label = format!("bench {bench} (pingora)");
        self.step(&label, &["--bench", bench])
    }

    fn step(&self, label: &str, args: &[&str]) -> Step {
        Step::cargo(label, ["bench", "--locked", "--manifest-path", MANIFEST])
            .args(["--target-dir".as_ref(), self.target.as_os_str()])
            .args(args)
    }
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn install_command(os: &str) -> &'static str {
    if os == "macos" {
        "brew install cmake"
    } else {
        "apt-get update && apt-get install -y cmake"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_not_found_and_the_message_says_how_to_install_it() {
        assert!(on_path("cargo"));
        assert!(!on_path("no-such-program-anywhere"));
        assert!(install_command("linux").starts_with("apt-get"));
        assert!(install_command("macos").starts_with("brew"));
    }
}
