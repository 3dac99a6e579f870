//! Installs what is missing, with the machine's package manager.

use std::{collections::BTreeSet, env, ffi::OsString, io, path::PathBuf, process::Command};

use super::{Places, SetupError, Tool, error::names, user::is_root};

/// What this machine can install with; a value of its own so that a test can take the package manager away.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) apt: Option<PathBuf>,
    pub(super) brew: Option<PathBuf>,
    pub(super) sudo: Option<PathBuf>,
    pub(super) root: bool,
    /// Whether a person can be asked for sudo's password.
    pub(super) terminal: bool,
    pub(super) macos: bool,
}

/// The environment variable that, set to `never`, leaves installing to a person.
const INSTALL: &str = "HA_TESTBED_INSTALL";

/// Runs as root. `$@` are the packages.
const APT: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
"#;

impl Machine {
    pub(super) fn this() -> Self {
        let places = Places::of_this_machine();
        let may_install = env::var_os(INSTALL).is_none_or(|value| value != "never");
        let manager = |name| places.program(name).filter(|_| may_install);
        Self {
            apt: manager("apt-get"),
            brew: manager("brew"),
            sudo: places.program("sudo"),
            root: is_root(),
            terminal: io::IsTerminal::is_terminal(&io::stdin()),
            macos: cfg!(target_os = "macos"),
        }
    }

    fn packages(&self, tools: &[Tool]) -> BTreeSet<&'static str> {
        tools
            .iter()
            .map(|tool| {
                if self.macos {
                    tool.brew()
                } else {
                    tool.debian()
                }
            })
            .collect()
    }

    /// What a person would type.
    pub(super) fn command(&self, tools: &[Tool]) -> String {
        let packages = self
            .packages(tools)
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ");
        if self.macos {
            format!("brew install {packages}")
        } else {
            let sudo = if self.root { "" } else { "sudo " };
            format!("{sudo}apt-get update && {sudo}apt-get install -y {packages}")
        }
    }

    /// What this module runs, when it can.
    pub(super) fn installer(&self, tools: &[Tool]) -> Option<Command> {
        let packages = self.packages(tools);
        if self.macos {
            let mut command = Command::new(self.brew.as_ref()?);
            command.arg("install").args(packages);
            return Some(command);
        }
        self.apt.as_ref()?;
        let mut script: Vec<OsString> =
            vec!["/bin/sh".into(), "-c".into(), APT.into(), "sh".into()];
        script.extend(packages.into_iter().map(OsString::from));
        let mut command = if self.root {
            Command::new(script.remove(0))
        } else {
            let mut command = Command::new(self.sudo.as_ref()?);
            // Without a terminal a question for the password would hang a CI job for ever.
            if !self.terminal {
                command.arg("-n");
            }
            command
        };
        command.args(script);
        Some(command)
    }
}

pub(super) fn ensure_on(
    tools: &[Tool],
    places: &dyn Fn() -> Places,
    machine: &Machine,
    progress: &mut dyn io::Write,
) -> Result<(), SetupError> {
    // Looked up anew each time: an installation may bring a new version directory.
    let missing = |tools: &[Tool]| -> Vec<Tool> {
        let places = places();
        let unique: BTreeSet<_> = tools.iter().copied().collect();
        unique
            .into_iter()
            .filter(|tool| places.find(*tool).is_none())
            .collect()
    };
    let absent = missing(tools);
    if absent.is_empty() {
        return Ok(());
    }
    let command = machine.command(&absent);
    let Some(mut installer) = machine.installer(&absent) else {
        return Err(SetupError::Manual {
            missing: absent,
            command,
        });
    };
    // Progress is a courtesy: a closed standard error is no reason to fail.
    let _ = writeln!(
        progress,
        "setup: {} missing, installing ({command})",
        names(&absent)
    );
    // Standard output belongs to the caller, who may be printing JSON.
    match installer.stdout(io::stderr()).status() {
        Err(source) => {
            return Err(SetupError::Run {
                missing: absent,
                command,
                source,
            });
        }
        Ok(status) if !status.success() => {
            return Err(SetupError::Failed {
                missing: absent,
                command,
                status: status.to_string(),
            });
        }
        Ok(_) => {}
    }
    let still = missing(&absent);
    if !still.is_empty() {
        return Err(SetupError::NotFound {
            missing: still,
            command,
        });
    }
    let _ = writeln!(progress, "setup: {} ready", names(&absent));
    Ok(())
}
