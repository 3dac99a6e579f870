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
//! Where neither package manager can be used, the error names the exact command for a person to run.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program the bed starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// PostgreSQL's server; `initdb`, `pg_basebackup` and `pg_rewind` must lie beside it.
    Postgres,
    /// Patroni, which keeps a PostgreSQL cluster alive.
    Patroni,
    /// etcd, where Patroni keeps who leads.
    Etcd,
    /// The Python module through which Patroni talks to etcd.
    PythonEtcd,
    /// The Redis server.
    Redis,
    /// Redis Sentinel, which fails Redis over.
    Sentinel,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Postgres,
        Self::Patroni,
        Self::Etcd,
        Self::PythonEtcd,
        Self::Redis,
        Self::Sentinel,
    ];

    /// The environment variable that names the program, for those who keep it elsewhere.
    pub fn env(self) -> &'static str {
        match self {
            Self::Postgres => "HA_TESTBED_POSTGRES",
            Self::Patroni => "HA_TESTBED_PATRONI",
            Self::Etcd => "HA_TESTBED_ETCD",
            Self::PythonEtcd => "HA_TESTBED_PYTHON",
            Self::Redis => "HA_TESTBED_REDIS_SERVER",
            Self::Sentinel => "HA_TESTBED_REDIS_SENTINEL",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Patroni => "patroni",
            Self::Etcd => "etcd",
            Self::PythonEtcd => "python3",
            Self::Redis => "redis-server",
            Self::Sentinel => "redis-sentinel",
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Patroni => "patroni",
            Self::Etcd => "etcd-server",
            Self::PythonEtcd => "python3-etcd",
            Self::Redis => "redis-server",
            Self::Sentinel => "redis-sentinel",
        }
    }

    fn brew(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql@16",
            // The formula carries the Python modules it needs.
            Self::Patroni | Self::PythonEtcd => "patroni",
            Self::Etcd => "etcd",
            Self::Redis | Self::Sentinel => "redis",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Patroni => "Patroni",
            Self::Etcd => "etcd",
            Self::PythonEtcd => "Python's etcd module",
            Self::Redis => "Redis",
            Self::Sentinel => "Redis Sentinel",
        })
    }
}

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

fn names(tools: &[Tool]) -> String {
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
        &mut io::stderr(),
    )
}

/// The command that installs `tools` on this machine, for messages.
pub fn install_command(tools: &[Tool]) -> String {
    Machine::this().command(tools)
}

/// The user servers run as when the owner is root, since PostgreSQL refuses root: `postgres` where it exists, else
/// `nobody`. Nothing when the owner is an ordinary user already, or neither exists.
pub fn unprivileged_user() -> Option<User> {
    if !is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    user_in(&passwd, "postgres").or_else(|| user_in(&passwd, "nobody"))
}

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

fn user_in(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        // "nobody" may be -2 on other systems; an id of 0 would be root under another name.
        (uid != 0).then(|| User {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

/// Whether this process runs as root: the standard library has no call for it.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    if let Ok(me) = fs::metadata("/proc/self") {
        return me.uid() == 0;
    }
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Where programs may be; a value of its own so that a test can point it at an empty directory.
#[derive(Debug, Clone)]
struct Places {
    overrides: Vec<(Tool, PathBuf)>,
    path: Vec<PathBuf>,
    extra: Vec<PathBuf>,
}

impl Places {
    fn of_this_machine() -> Self {
        let overrides = Tool::ALL
            .into_iter()
            .filter_map(|tool| Some((tool, PathBuf::from(env::var_os(tool.env())?))))
            .collect();
        let path = env::var_os("PATH")
            .map(|path| env::split_paths(&path).collect())
            .unwrap_or_default();
        let mut extra = Vec::new();
        for (parent, prefix, below) in [
            ("/usr/lib/postgresql", "", "bin"),
            ("/usr", "pgsql-", "bin"),
            ("/opt/homebrew/opt", "postgresql@", "bin"),
            ("/usr/local/opt", "postgresql@", "bin"),
        ] {
            extra.extend(
                versions(Path::new(parent), prefix)
                    .into_iter()
                    .map(|dir| dir.join(below)),
            );
        }
        extra.extend(
            [
                "/usr/bin",
                "/usr/sbin",
                "/usr/local/bin",
                "/opt/homebrew/bin",
            ]
            .map(PathBuf::from),
        );
        Self {
            overrides,
            path,
            extra,
        }
    }

    fn find(&self, tool: Tool) -> Option<PathBuf> {
        if tool == Tool::PythonEtcd {
            return self.python().filter(|python| has_etcd_module(python));
        }
        if let Some((_, file)) = self.overrides.iter().find(|(of, _)| *of == tool) {
            return is_program(file).then(|| file.clone());
        }
        if tool == Tool::Postgres {
            return self
                .programs(tool.program())
                .find_map(|file| with_siblings(&file));
        }
        self.program(tool.program())
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs(name).next()
    }

    fn programs(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.path
            .iter()
            .chain(&self.extra)
            .map(move |dir| dir.join(name))
            .filter(|file| is_program(file))
    }

    /// The Python that runs Patroni: other ones on the machine may lack the module.
    fn python(&self) -> Option<PathBuf> {
        if let Some((_, file)) = self
            .overrides
            .iter()
            .find(|(of, _)| *of == Tool::PythonEtcd)
        {
            return is_program(file).then(|| file.clone());
        }
        let of_patroni = self.find(Tool::Patroni).and_then(|patroni| {
            let text = fs::read(patroni).ok()?;
            let line = text
                .strip_prefix(b"#!")?
                .split(|byte| *byte == b'\n')
                .next()?;
            let line = std::str::from_utf8(line).ok()?;
            let interpreter = PathBuf::from(line.split_whitespace().next()?);
            (interpreter.file_name()? != "env" && is_program(&interpreter)).then_some(interpreter)
        });
        of_patroni.or_else(|| self.program("python3"))
    }
}

/// A `postgres` without the programs that belong to it is of no use. One on `PATH` may be a link; its siblings are where
/// it points to.
fn with_siblings(postgres: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(postgres).ok()?;
    let dir = real.parent()?;
    ["initdb", "pg_basebackup", "pg_rewind"]
        .iter()
        .all(|name| is_program(&dir.join(name)))
        .then_some(real)
}

fn has_etcd_module(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import etcd"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The children of `parent` whose names begin with `prefix`, the highest version first.
fn versions(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            let version = version
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// What this machine can install with; a value of its own so that a test can take the package manager away.
#[derive(Debug, Clone)]
struct Machine {
    apt: Option<PathBuf>,
    brew: Option<PathBuf>,
    sudo: Option<PathBuf>,
    root: bool,
    /// Whether a person can be asked for sudo's password.
    terminal: bool,
    macos: bool,
}

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
    fn this() -> Self {
        let places = Places::of_this_machine();
        Self {
            apt: places.program("apt-get"),
            brew: places.program("brew"),
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
    fn command(&self, tools: &[Tool]) -> String {
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
    fn installer(&self, tools: &[Tool]) -> Option<Command> {
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

fn ensure_on(
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

#[cfg(test)]
mod tests;
