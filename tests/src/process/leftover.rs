//! Finds and ends what beds left running in directories whose owner is gone: for supervisors that clean up after a crash.
//!
//! A process id alone proves nothing: it may have been given to somebody else since. What proves that a process is a
//! bed's is that it works in the bed's directory, which the kernel tells, and that the bed started it: see
//! [`process`](super). Where there is no `/proc` nothing is proved, so nothing is found and nothing is ended.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, test_kill_process};

use super::tree;

/// The processes of beds in or below these directories, this one excepted.
pub fn find(dirs: &[PathBuf]) -> Vec<u32> {
    let dirs = dirs.iter().filter_map(|dir| fs::canonicalize(dir).ok());
    dirs.flat_map(|dir| tree::members(&dir, None))
        .map(|member| member.pid.cast_unsigned())
        .collect()
}

/// Ends every process of beds in or below these directories, waits until none is left and says how many there were.
///
/// # Errors
///
/// The ids of those that are still there after `deadline`.
pub fn end(dirs: &[PathBuf], deadline: Duration) -> Result<usize, Vec<u32>> {
    let start = Instant::now();
    let mut ended = BTreeSet::new();
    loop {
        // Looked for again each round: a parent that is killed last may have started another child meanwhile.
        let left = find(dirs);
        if left.is_empty() {
            return Ok(ended.len());
        }
        if start.elapsed() > deadline {
            return Err(left);
        }
        for pid in left {
            // SIGKILL ends a stopped process too.
            if tree::signal(pid.cast_signed(), Signal::KILL).is_ok() {
                ended.insert(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let pid = pid.cast_signed();
    if Path::new("/proc/self/stat").exists() {
        return fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| tree::member(pid, &stat).is_some());
    }
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::super::mark;
    use super::*;

    fn sleeper(dir: &Path, bed: Option<&Path>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("600").current_dir(dir).stdin(Stdio::null());
        if let Some(bed) = bed {
            command.env(mark::VARIABLE, bed);
        }
        command.spawn().unwrap()
    }

    fn end_all(dir: &Path) -> Result<usize, Vec<u32>> {
        end(&[dir.to_owned()], Duration::from_secs(10))
    }

    /// Reaps from the side, as init does for the orphans of a crashed supervisor.
    fn reap(mut child: Child) -> std::thread::JoinHandle<bool> {
        std::thread::spawn(move || child.wait().unwrap().success())
    }

    #[test]
    fn ends_what_a_bed_started_in_our_directory_and_nothing_else() {
        let ours = tempfile::tempdir().unwrap();
        let theirs = tempfile::tempdir().unwrap();
        let bed = fs::canonicalize(ours.path()).unwrap().join("bed");
        let inside = bed.join("one/data");
        fs::create_dir_all(&inside).unwrap();
        let reaper = reap(sleeper(&inside, Some(&bed)));
        let elsewhere = [
            sleeper(theirs.path(), Some(theirs.path())),
            // Somebody's shell, and one that another bed started.
            sleeper(&inside, None),
            sleeper(&inside, Some(theirs.path())),
        ];

        assert_eq!(end_all(ours.path()), Ok(1));

        assert!(!reaper.join().unwrap());
        for mut child in elsewhere {
            assert!(child.try_wait().unwrap().is_none(), "a bystander was hit");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn ends_a_stopped_process_too() {
        let ours = tempfile::tempdir().unwrap();
        let bed = fs::canonicalize(ours.path()).unwrap();
        let child = sleeper(&bed, Some(&bed));
        tree::signal(child.id().cast_signed(), Signal::STOP).unwrap();
        let reaper = reap(child);
        assert_eq!(end_all(&bed), Ok(1));
        reaper.join().unwrap();
    }

    #[test]
    fn a_directory_that_is_gone_finds_nothing() {
        assert_eq!(end_all(Path::new("/nonexistent/dir")), Ok(0));
    }
}
