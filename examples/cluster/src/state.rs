//! Where a cluster keeps its state, and who may touch it.
//!
//! One directory holds everything: `state.json` (what runs, for the other commands), `control.sock`, the logs and the
//! servers' data. A supervisor holds an exclusive lock on the file `lock` for as long as it lives. The kernel drops the
//! lock with the process, whatever ended it, so "is a supervisor alive?" is answered by trying the lock and never by
//! guessing from a process id that may have been given to somebody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither `--dir` nor a workspace says where the state belongs.
    #[error(
        "cannot tell where the cluster keeps its state: run this inside the workspace or give --dir DIR"
    )]
    NoPlace,
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory exists and holds something that is not a cluster's.
    #[error("{} is not empty and not a cluster's directory; give --dir an empty or a new one", .0.display())]
    NotOurs(PathBuf),
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What a supervisor writes down for the other commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The supervisor's process id.
    pub supervisor: u32,
    /// Where the supervisor listens for commands.
    pub control: PathBuf,
    /// Directories that belong to this cluster alone: what it started works in one of them.
    pub dirs: Vec<PathBuf>,
    /// The address that a browser is pointed at.
    pub url: String,
    /// The parts with their last known process ids.
    pub parts: Vec<PartState>,
}

/// One part in [`State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    /// Its name.
    pub name: String,
    /// Its main process, if it ran when this was written.
    pub pid: Option<u32>,
    /// Where it listens.
    pub address: String,
    /// Where it logs.
    pub logs: Vec<PathBuf>,
}

/// The directory of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
}

const MARKER: &str = "lock";

impl Place {
    /// `dir` if given, else `target/cluster` of the workspace that `cargo cluster` runs in.
    ///
    /// # Errors
    /// [`Error::NoPlace`] outside a workspace without `dir`, [`Error::Io`] when the path cannot be made absolute.
    pub fn find(dir: Option<&Path>) -> Result<Self, Error> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir).map_err(Error::io("resolve", dir))?,
            None => workspace().ok_or(Error::NoPlace)?.join("target/cluster"),
        };
        Ok(Self { dir })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key file that the apps share.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Where PostgreSQL, Patroni and etcd live.
    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// Where Redis and the Sentinels live.
    pub fn redis(&self) -> PathBuf {
        self.dir.join("redis")
    }

    /// Where edges and apps live.
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn beds(&self) -> [PathBuf; 3] {
        [self.postgres(), self.redis(), self.run()]
    }

    /// Every directory that belongs to this cluster alone: its own, and, where the servers may not live in there, the
    /// ones that it links to.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let linked = self.beds().into_iter().filter(|bed| bed.is_symlink());
        let linked = linked.filter_map(|bed| fs::canonicalize(bed).ok());
        [self.dir.clone()].into_iter().chain(linked).collect()
    }

    /// Whether a run left anything but the lock.
    pub fn has_remains(&self) -> bool {
        let files = [self.state(), self.control(), self.keys()];
        files
            .iter()
            .chain(&self.beds())
            .any(|path| path.symlink_metadata().is_ok())
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// Creates the directory if need be and takes the lock.
    ///
    /// `Ok(None)` means that a living supervisor holds it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotOurs`] when the directory holds other people's files.
    pub fn lock(&self) -> Result<Option<Lock>, Error> {
        let marker = self.dir.join(MARKER);
        if !marker.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&self.dir)
                .map_err(Error::io("create", &self.dir))?;
            let mut entries = fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))?;
            if entries.next().is_some() {
                return Err(Error::NotOurs(self.dir.clone()));
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&marker)
            .map_err(Error::io("open", &marker))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", &marker)(errno.into())),
        }
    }

    /// Whether a cluster was ever started here and left something behind or is running.
    pub fn exists(&self) -> bool {
        self.dir.join(MARKER).exists()
    }

    /// What the last supervisor wrote down, if there is anything and it can be understood.
    pub fn read(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.state()).ok()?).ok()
    }

    /// Writes the state so that a reader sees the old or the new one, never half of it.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk among others.
    pub fn write(&self, state: &State) -> Result<(), Error> {
        let path = self.state();
        let new = self.dir.join("state.json.new");
        let text = serde_json::to_vec_pretty(state).map_err(|e| Error::Io {
            action: "encode",
            path: path.clone(),
            source: e.into(),
        })?;
        let mut file = File::create(&new).map_err(Error::io("create", &new))?;
        file.write_all(&text).map_err(Error::io("write", &new))?;
        file.sync_all().map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("replace", &path))
    }

    /// Where the control socket goes: into the directory, or, because the system allows a socket's path no more than
    /// about a hundred bytes, into the temporary directory when ours is too deep.
    pub fn control(&self) -> PathBuf {
        let here = self.dir.join("control.sock");
        if here.as_os_str().len() < 100 {
            return here;
        }
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        self.dir.hash(&mut hasher);
        std::env::temp_dir().join(format!("ha-cluster-{:016x}.sock", hasher.finish()))
    }

    /// Removes everything but the lock, which the next holder may be waiting for.
    ///
    /// # Errors
    /// [`Error::Io`] for the first thing that could not be removed; the rest is still tried.
    pub fn clear(&self, _lock: &Lock) -> Result<(), Error> {
        let mut failed = Ok(());
        let mut note = |path: &Path, removed: io::Result<()>| match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound && failed.is_ok() => {
                failed = Err(Error::io("remove", path)(e));
            }
            _ => {}
        };
        for bed in self.beds() {
            if bed.is_symlink() {
                if let Ok(target) = fs::canonicalize(&bed) {
                    note(&target, fs::remove_dir_all(&target));
                }
                note(&bed, fs::remove_file(&bed));
            } else {
                note(&bed, fs::remove_dir_all(&bed));
            }
        }
        // The state last: as long as anything is left, the next command sees that there is something to clean up.
        for file in [
            self.control(),
            self.keys(),
            self.dir.join("state.json.new"),
            self.state(),
        ] {
            note(&file, fs::remove_file(&file));
        }
        failed
    }
}

/// Held by the one supervisor of a directory.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn workspace() -> Option<PathBuf> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_dir().ok()?,
    };
    start
        .ancestors()
        .find(|dir| dir.join("examples/cluster/Cargo.toml").is_file())
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let temp = tempfile::tempdir().unwrap();
        let place = Place::find(Some(&temp.path().join("cluster"))).unwrap();
        (temp, place)
    }

    fn state() -> State {
        State {
            supervisor: 1,
            control: "/x/control.sock".into(),
            dirs: vec!["/x".into()],
            url: "http://localhost:8080".into(),
            parts: vec![PartState {
                name: "app-1".into(),
                pid: None,
                address: "127.0.0.1:1".into(),
                logs: vec![],
            }],
        }
    }

    #[test]
    fn one_supervisor_at_a_time_and_the_lock_ends_with_its_holder() {
        let (_temp, place) = place();
        let held = place.lock().unwrap().expect("free at first");
        assert!(place.lock().unwrap().is_none(), "held");
        drop(held);
        assert!(place.lock().unwrap().is_some(), "free again");
    }

    #[test]
    fn a_directory_of_someone_else_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "dear").unwrap();
        let place = Place::find(Some(temp.path())).unwrap();
        assert!(matches!(place.lock(), Err(Error::NotOurs(_))));
        assert!(temp.path().join("thesis.tex").exists());
    }

    #[test]
    fn state_is_read_back_and_garbage_is_nothing() {
        let (_temp, place) = place();
        let lock = place.lock().unwrap().unwrap();
        assert_eq!(place.read(), None);
        place.write(&state()).unwrap();
        assert_eq!(place.read(), Some(state()));
        fs::write(place.state(), "{\"supervisor\":").unwrap();
        assert_eq!(place.read(), None);
        place.clear(&lock).unwrap();
        assert!(!place.state().exists());
        assert!(
            place.exists(),
            "the lock file stays: removing it would race with the next holder"
        );
    }

    #[test]
    fn a_deep_directory_still_gets_a_socket_that_can_be_bound() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(120));
        let socket = Place::find(Some(&deep)).unwrap().control();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::remove_file(socket).unwrap();
    }
}
