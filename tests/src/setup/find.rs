//! Where programs are looked for.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Tool;

/// Where programs may be; a value of its own so that a test can point it at an empty directory.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) overrides: Vec<(Tool, PathBuf)>,
    pub(super) path: Vec<PathBuf>,
    pub(super) extra: Vec<PathBuf>,
}

impl Places {
    pub(super) fn of_this_machine() -> Self {
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

    pub(super) fn find(&self, tool: Tool) -> Option<PathBuf> {
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

    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
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
pub(super) fn versions(parent: &Path, prefix: &str) -> Vec<PathBuf> {
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
