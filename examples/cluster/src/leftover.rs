//! Finds and ends what a crashed supervisor left running.
//!
//! A process id alone proves nothing: it may have been given to somebody else since. What proves that a process is ours
//! is that it *works in* a directory that belongs to this cluster alone, which the kernel tells in `/proc/PID/cwd`;
//! every part is started with its working directory there. Where there is no `/proc` nothing is proved, so nothing is
//! ended, and the caller reports what may be left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The processes that work in one of these directories, this one excepted.
pub fn find(dirs: &[PathBuf]) -> Vec<u32> {
    let dirs: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|dir| fs::canonicalize(dir).ok())
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != std::process::id() && works_in(pid, &dirs) && !is_zombie(pid))
        .collect()
}

fn works_in(pid: u32, dirs: &[PathBuf]) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd"))
        .is_ok_and(|cwd| dirs.iter().any(|dir| cwd.starts_with(dir)))
}

fn is_zombie(pid: u32) -> bool {
    // The name in parentheses may hold anything, so the state is what follows the last of them.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Ends every process that works in one of these directories and waits until none is left.
///
/// Returns how many were ended, or, when some outlived the deadline, their ids.
///
/// # Errors
/// The ids that are still there after `deadline`.
pub fn end(dirs: &[PathBuf], deadline: Duration) -> Result<usize, Vec<u32>> {
    let start = Instant::now();
    let mut ended = std::collections::BTreeSet::new();
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
            let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            // SIGKILL ends a stopped process too.
            if kill_process(target, Signal::KILL).is_ok() {
                ended.insert(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    if Path::new("/proc").join(pid.to_string()).exists() {
        return !is_zombie(pid);
    }
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper(dir: &Path) -> std::process::Child {
        Command::new("sleep")
            .arg("600")
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn ends_what_works_in_our_directory_and_nothing_else() {
        let ours = tempfile::tempdir().unwrap();
        let theirs = tempfile::tempdir().unwrap();
        let inside = ours.path().join("deep/er");
        fs::create_dir_all(&inside).unwrap();
        let mut child = sleeper(&inside);
        let mut other = sleeper(theirs.path());

        // Reaped from the side, as init would do for the orphans of a crashed supervisor.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        let ended = end(&[ours.path().to_owned()], Duration::from_secs(10)).unwrap();

        assert_eq!(ended, 1);
        assert!(!reaper.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "the other one lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn ends_a_stopped_process_too() {
        let ours = tempfile::tempdir().unwrap();
        let mut child = sleeper(ours.path());
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(
            end(&[ours.path().to_owned()], Duration::from_secs(10)),
            Ok(1)
        );
        reaper.join().unwrap();
    }

    #[test]
    fn a_directory_that_is_gone_finds_nothing() {
        assert_eq!(
            end(&["/nonexistent/dir".into()], Duration::from_secs(1)),
            Ok(0)
        );
    }
}
