//! The directory of a bed and the watcher that clears it.

use std::{
    fs, io,
    io::Write as _,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Process, Spec, tree};
use crate::{
    StartError,
    setup::{self, User},
};

/// Marks a directory as one this module may empty.
const MARKER: &str = ".ha-testbed";

/// Owns a directory and every process that works inside it.
///
/// A cheap handle: the bed ends, with all its processes, when the last handle and the last [`Process`] of it is
/// dropped, or when the owning program ends in whatever way. Dropping blocks its thread until all is gone, commonly
/// some tens of milliseconds.
#[derive(Debug, Clone)]
pub struct Bed {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    keep: bool,
    user: Option<User>,
    janitor: Mutex<Option<(Child, ChildStdin)>>,
}

impl Bed {
    /// A bed in a new directory below [`std::env::temp_dir`], removed at the end.
    ///
    /// # Errors
    ///
    /// When the directory or the watcher cannot be made.
    pub fn temporary() -> Result<Self, StartError> {
        Self::open(new_directory()?, false)
    }

    /// A bed in `dir`, which stays, with all logs, when the bed ends. What an earlier bed left there is removed first.
    ///
    /// When the owner is root, the servers run as another user, who may not be allowed to pass through `dir`'s parents
    /// (`/root`, say). The state then lives below [`std::env::temp_dir`] and `dir` becomes a link to it.
    ///
    /// # Errors
    ///
    /// When `dir` holds anything that no bed put there, another bed uses it at this moment, or it cannot be made.
    pub fn at(dir: impl AsRef<Path>) -> Result<Self, StartError> {
        let dir = dir.as_ref();
        let failed = |what| StartError::file("bed", what, dir);
        let refuse = |reason: &str| StartError::Directory {
            dir: dir.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed("create the parent directory"))?;
        }
        if dir.exists() {
            let ours = dir.join(MARKER).exists();
            let empty = fs::read_dir(dir)
                .map_err(failed("read the directory"))?
                .next()
                .is_none();
            if !ours && !empty {
                return Err(refuse(
                    "it holds files no test bed made; name an empty or a new directory",
                ));
            }
            let real = fs::canonicalize(dir).map_err(failed("resolve the directory"))?;
            if !tree::members(&real, None).is_empty() {
                return Err(refuse(
                    "processes of another bed run in it; end that one first",
                ));
            }
            fs::remove_dir_all(&real).map_err(failed("empty the directory"))?;
        }
        if fs::symlink_metadata(dir).is_ok() {
            fs::remove_file(dir).map_err(failed("remove the old link"))?;
        }
        let parent = dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).map_err(failed("resolve the parent directory"))?;
        let user = setup::unprivileged_user();
        if user.as_ref().is_none_or(|user| passable(&parent, user)) {
            fs::create_dir(dir).map_err(failed("create the directory"))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
                .map_err(failed("open the directory"))?;
        } else {
            let state = new_directory()?;
            std::os::unix::fs::symlink(&state, dir).map_err(failed("link the directory"))?;
        }
        fs::write(
            dir.join(MARKER),
            "A test bed's state. The next one started here empties it.\n",
        )
        .map_err(failed("mark the directory"))?;
        Self::open(dir.to_owned(), true)
    }

    /// At `dir` when there is one, else a temporary one.
    pub(crate) fn choose(dir: Option<&Path>) -> Result<Self, StartError> {
        dir.map_or_else(Self::temporary, Self::at)
    }

    fn open(dir: PathBuf, keep: bool) -> Result<Self, StartError> {
        // The kernel reports working directories without links, so the comparison needs the same.
        let dir = fs::canonicalize(&dir).map_err(StartError::io("bed", "resolve the directory"))?;
        let janitor = watch(&dir, keep).map_err(StartError::io("bed", "start the watcher"));
        if janitor.is_err() && !keep {
            let _ = fs::remove_dir_all(&dir);
        }
        let mut janitor = janitor?;
        let stdin = janitor.stdin.take();
        let janitor = Mutex::new(stdin.map(|stdin| (janitor, stdin)));
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                keep,
                user: setup::unprivileged_user(),
                janitor,
            }),
        })
    }

    /// The bed's directory, without links.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The user the bed's processes run as, when it is not the owner's.
    pub fn user(&self) -> Option<&User> {
        self.inner.user.as_ref()
    }

    /// Starts a process in a directory of its own, named as the process, inside the bed's.
    ///
    /// # Errors
    ///
    /// When the directory or the log cannot be made or the program cannot be run.
    pub fn spawn(&self, spec: Spec) -> Result<Process, StartError> {
        Process::start_in(self.clone(), spec)
    }

    /// Makes a directory inside the bed's that the bed's processes may write to.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf, StartError> {
        let dir = self.dir().join(name);
        fs::create_dir_all(&dir).map_err(self.failed(name, "create the directory"))?;
        self.give(&dir)
            .map_err(self.failed(name, "hand the directory over"))?;
        Ok(dir)
    }

    /// An error of the operating system on one of the bed's files.
    pub(crate) fn failed(
        &self,
        part: &str,
        what: &'static str,
    ) -> impl FnOnce(io::Error) -> StartError + use<> {
        StartError::file(part, what, self.dir())
    }

    /// Hands a file over to the user the processes run as.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        match self.user() {
            Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    }

    pub(super) fn note(&self, sign: char, pid: u32) {
        let mut janitor = self
            .inner
            .janitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = janitor.as_mut() {
            // Without the watcher there is still the cleaning on drop.
            let _ = writeln!(pipe, "{sign}{pid}");
        }
    }

    #[cfg(test)]
    pub(super) fn janitor_pid(&self) -> i32 {
        let janitor = self.inner.janitor.lock().unwrap();
        janitor.as_ref().unwrap().0.id().cast_signed()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Killing and removing is done here too, so that nothing is left even when somebody killed the watcher.
        let dead = tree::kill_all(&self.dir, None, Duration::from_secs(10)).is_ok();
        let janitor = self
            .janitor
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((mut janitor, pipe)) = janitor {
            drop(pipe);
            let end = Instant::now() + Duration::from_secs(10);
            while matches!(janitor.try_wait(), Ok(None)) {
                if Instant::now() >= end {
                    let _ = janitor.kill();
                    let _ = janitor.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if dead && !self.keep && self.dir.exists() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn watch(dir: &Path, keep: bool) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", include_str!("janitor.sh"), "ha-testbed-janitor"])
        .arg(dir)
        .arg(if keep { "keep" } else { "remove" })
        .current_dir("/")
        .stdin(Stdio::piped())
        // An inherited output would keep the caller's pipe open after the caller is gone.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn new_directory() -> Result<PathBuf, StartError> {
    let dir = tempfile::Builder::new()
        .prefix("ha-testbed-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .map_err(StartError::io(
            "bed",
            "create a directory for temporary files",
        ))?
        .keep();
    // The umask may have taken away what the servers' user needs.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
        .map_err(StartError::io("bed", "open the directory"))?;
    if let Some(user) = setup::unprivileged_user()
        && !passable(&dir, &user)
    {
        let _ = fs::remove_dir(&dir);
        return Err(StartError::Directory {
            dir,
            reason: format!(
                "user {} may not pass through it; set TMPDIR to a directory open to all",
                user.name
            ),
        });
    }
    Ok(dir)
}

/// Whether `user` may go through `dir` and all its parents.
fn passable(dir: &Path, user: &User) -> bool {
    dir.ancestors().all(|dir| {
        fs::metadata(dir).is_ok_and(|meta| {
            let needed = if meta.uid() == user.uid {
                0o100
            } else if meta.gid() == user.gid {
                0o010
            } else {
                0o001
            };
            meta.mode() & needed != 0
        })
    })
}
