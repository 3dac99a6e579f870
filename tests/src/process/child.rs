//! One process of a bed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{Bed, mark, tree};
use crate::{StartError, wait};

/// How long the kernel may take to end or stop a process that cannot refuse.
const KERNEL: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    port: Option<u16>,
    as_owner: bool,
}

impl Spec {
    /// `program` under `name`, which also names its directory and log.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            port: None,
            as_owner: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// The port it serves on, so that an error can name it and tell a taken one from other failures.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Runs it as the owner's user even when that is root: for programs that lie where others may not look.
    #[must_use]
    pub fn as_owner(mut self) -> Self {
        self.as_owner = true;
        self
    }

    pub(crate) fn command(&self, bed: &Bed) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .process_group(0);
        for (key, _) in std::env::vars_os() {
            // The caller's own database settings must not leak into the servers' tools.
            if key
                .to_str()
                .is_some_and(|key| key.starts_with("PG") || key.starts_with("PATRONI_"))
            {
                command.env_remove(key);
            }
        }
        // Error texts are matched, so they have to be in one language.
        command.env("LC_ALL", "C");
        command.env(mark::VARIABLE, bed.dir());
        command.envs(self.envs.iter().map(|(key, value)| (key, value)));
        if let (false, Some(user)) = (self.as_owner, bed.user()) {
            command
                .uid(user.uid)
                .gid(user.gid)
                .env("HOME", bed.dir())
                .env("USER", &user.name);
        }
        command
    }
}

/// A process with all its helpers. A cheap handle: clones mean the same process, which ends with the last of them.
///
/// It can be dead and be started again under the same name, in the same directory, with the same arguments.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: Spec,
    bed: Bed,
    dir: PathBuf,
    log: PathBuf,
    child: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(super) fn start_in(bed: Bed, spec: Spec) -> Result<Self, StartError> {
        let dir = bed.make_dir(&spec.name)?;
        let log = bed.dir().join(format!("{}.log", spec.name));
        let process = Self {
            inner: Arc::new(Inner {
                spec,
                bed,
                dir,
                log,
                child: Mutex::default(),
            }),
        };
        process.start()?;
        Ok(process)
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        state.look(&self.inner.bed);
        state.child.as_ref().map(Child::id)
    }

    /// Whether it runs; a frozen process does.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Its working directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Where its standard output and standard error go.
    pub fn log_path(&self) -> &Path {
        &self.inner.log
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.inner.log, lines)
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    ///
    /// When the program cannot be run. That it runs does not mean that it serves yet.
    pub fn start(&self) -> Result<(), StartError> {
        let part = self.name();
        let mut state = self.state();
        state.look(&self.inner.bed);
        if state.child.is_some() {
            return Ok(());
        }
        let (log, errors) =
            outputs(&self.inner.log).map_err(self.inner.bed.failed(part, "open the log"))?;
        let child = self
            .inner
            .spec
            .command(&self.inner.bed)
            .current_dir(&self.inner.dir)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(StartError::io(part, "run the program"))?;
        self.inner.bed.note('+', child.id());
        *state = State {
            child: Some(child),
            ended: None,
        };
        Ok(())
    }

    /// Ends it and all its helpers with `SIGKILL`, as a loss of power would, and waits until the kernel is done.
    ///
    /// # Errors
    ///
    /// When a process may not be signalled or does not die within 10 s.
    ///
    /// # Cancel safety
    ///
    /// The killing goes on in the background when the future is dropped.
    pub async fn kill(&self) -> Result<(), StartError> {
        let process = self.clone();
        blocking(self.name(), move || process.kill_now()).await
    }

    pub(crate) fn kill_now(&self) -> Result<(), StartError> {
        self.inner
            .kill()
            .map_err(StartError::io(self.name(), "kill it"))
    }

    /// Ends the process itself with `SIGKILL` and leaves its helpers running, as when a supervisor crashes.
    ///
    /// # Errors
    ///
    /// When it may not be signalled.
    pub fn kill_alone(&self) -> Result<(), StartError> {
        let failed = StartError::io(self.name(), "kill it");
        let mut state = self.state();
        state.look(&self.inner.bed);
        let Some(mut child) = state.child.take() else {
            return Ok(());
        };
        let status = child.kill().and_then(|()| child.wait()).map_err(failed)?;
        self.inner.bed.note('-', child.id());
        state.ended = Some(status);
        Ok(())
    }

    /// Kills those of its helpers that work inside `dir`, `root` among them.
    pub(crate) async fn kill_inside(
        &self,
        dir: PathBuf,
        root: Option<i32>,
    ) -> Result<(), StartError> {
        let failed = StartError::io(self.name(), "kill its helpers");
        blocking(self.name(), move || {
            tree::kill_all(&dir, root, KERNEL).map_err(failed)
        })
        .await
    }

    /// Asks it to end with `SIGTERM`; what still runs after `patience` is killed.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    ///
    /// # Cancel safety
    ///
    /// It has been asked; whether it ends is then not waited for.
    pub async fn terminate(&self, patience: Duration) -> Result<(), StartError> {
        if let Some(pid) = self.pid() {
            tree::signal(pid.cast_signed(), Signal::TERM)
                .map_err(StartError::io(self.name(), "end it"))?;
        }
        let end = Instant::now() + patience;
        while self.is_running() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill().await
    }

    /// Stops it and all its helpers with `SIGSTOP`, helpers first: it keeps its connections and answers nothing, as a
    /// machine that swaps or a paused virtual machine does.
    ///
    /// # Errors
    ///
    /// When a process may not be signalled or does not stop within 10 s.
    pub fn freeze(&self) -> Result<(), StartError> {
        let root = self.pid().map(u32::cast_signed);
        tree::freeze_all(&self.inner.dir, root, KERNEL)
            .map_err(StartError::io(self.name(), "freeze it"))
    }

    /// Stops the process itself with `SIGSTOP` and leaves its helpers running.
    ///
    /// # Errors
    ///
    /// When it may not be signalled or does not stop within 10 s.
    pub fn freeze_alone(&self) -> Result<(), StartError> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        tree::freeze_one(&self.inner.dir, pid.cast_signed(), KERNEL)
            .map_err(StartError::io(self.name(), "freeze it"))
    }

    /// Lets it go on after [`freeze`](Self::freeze) or [`freeze_alone`](Self::freeze_alone).
    ///
    /// # Errors
    ///
    /// When a process may not be signalled.
    pub fn thaw(&self) -> Result<(), StartError> {
        let root = self.pid().map(u32::cast_signed);
        tree::thaw_all(&self.inner.dir, root).map_err(StartError::io(self.name(), "thaw it"))
    }

    /// Kills it and starts it again.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill) and [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave it dead.
    pub async fn restart(&self) -> Result<(), StartError> {
        self.kill().await?;
        self.start()
    }

    /// Waits until `look` is content, which says otherwise what it saw.
    ///
    /// Ends early, with the end of the log, when the process ends.
    ///
    /// # Errors
    ///
    /// When the process ended, or the deadline passed.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn wait_until<F, Look>(
        &self,
        what: &'static str,
        deadline: Duration,
        mut look: F,
    ) -> Result<(), StartError>
    where
        F: FnMut() -> Look,
        Look: Future<Output = Result<(), String>>,
    {
        let waited = wait::until(deadline, wait::BETWEEN, || {
            let looking = look();
            async move {
                match looking.await {
                    Ok(()) => Ok(Ok(())),
                    Err(_) if !self.is_running() => Ok(Err(self.failure())),
                    Err(seen) => Err(seen),
                }
            }
        })
        .await;
        waited.unwrap_or_else(|last| {
            if !self.is_running() {
                return Err(self.failure());
            }
            Err(StartError::Deadline {
                part: self.name().to_owned(),
                port: self.inner.spec.port,
                what,
                after: deadline,
                last,
                log: self.log_tail(20),
            })
        })
    }

    /// Why it ended, when it has.
    pub(crate) fn ended(&self) -> Option<StartError> {
        (!self.is_running()).then(|| self.failure())
    }

    /// Why it ended, read from its log.
    fn failure(&self) -> StartError {
        let status = self
            .state()
            .ended
            .map_or_else(|| "an unknown status".to_owned(), describe);
        classify(
            self.name(),
            status,
            self.log_tail(20),
            &self.inner.dir,
            self.inner.spec.port,
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reaps the child when it has ended.
    fn look(&mut self, bed: &Bed) {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            bed.note('-', child.id());
            self.ended = Some(status);
            self.child = None;
        }
    }
}

impl Inner {
    fn kill(&self) -> io::Result<()> {
        let mut state = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        state.look(&self.bed);
        let root = state.child.as_ref().map(|child| child.id().cast_signed());
        tree::kill_all(&self.dir, root, KERNEL)?;
        if let Some(mut child) = state.child.take() {
            child.kill()?;
            state.ended = Some(child.wait()?);
            self.bed.note('-', child.id());
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The log, once for each of the two outputs.
fn outputs(log: &Path) -> io::Result<(File, File)> {
    let file = File::options().create(true).append(true).open(log)?;
    Ok((file.try_clone()?, file))
}

/// Runs a program of the bed's that ends by itself, with its output in the log of that name.
pub(crate) async fn run(
    bed: &Bed,
    spec: Spec,
    dir: &Path,
    deadline: Duration,
) -> Result<(), StartError> {
    let part = spec.name.clone();
    let log = bed.dir().join(format!("{part}.log"));
    let (file, errors) = outputs(&log).map_err(bed.failed(&part, "open the log"))?;
    let mut command = tokio::process::Command::from(spec.command(bed));
    command
        .current_dir(dir)
        .stdout(file)
        .stderr(errors)
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(StartError::io(&part, "run the program"))?;
    match tokio::time::timeout(deadline, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(classify(&part, describe(status), tail(&log, 20), dir, None)),
        Ok(Err(source)) => Err(StartError::io(&part, "wait for the program")(source)),
        Err(_) => Err(StartError::Deadline {
            part,
            port: None,
            what: "finished",
            after: deadline,
            last: "still running".to_owned(),
            log: tail(&log, 20),
        }),
    }
}

/// Runs what may block on a thread where that is allowed.
async fn blocking<T: Send + 'static>(
    part: &str,
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StartError::io(part, "run on a blocking thread")(
            io::Error::other(error),
        )),
    }
}

fn classify(part: &str, status: String, log: String, dir: &Path, port: Option<u16>) -> StartError {
    let (part, dir) = (part.to_owned(), dir.to_owned());
    // The last words of a program whose log lies on the full file system are lost.
    if log.contains("No space left on device") || is_full(&dir) {
        return StartError::DiskFull { part, dir, log };
    }
    let taken = log.contains("Address already in use") || log.contains("address already in use");
    match port {
        Some(port) if taken => StartError::PortTaken { part, port, log },
        port => StartError::Exited {
            part,
            port,
            status,
            log,
        },
    }
}

/// Whether the file system of `dir` has no room for a block.
fn is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| stat.f_bavail == 0)
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// The last `lines` lines of a file, reading no more than 64 KiB of it.
fn tail(file: &Path, lines: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(file)?;
        let size = fs::File::metadata(&file)?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(64 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let Ok(bytes) = read() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
