//! Which processes belong to a directory, and what state they are in.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::mark;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pid: i32,
    parent: i32,
    pub(super) stopped: bool,
}

/// Everything alive that a bed started and that works inside `dir`, or, where there is no `/proc`, that descends from
/// `root`; descendants before their ancestors.
pub(super) fn members(dir: &Path, root: Option<i32>) -> Vec<Member> {
    let mut found = if Path::new("/proc/self/stat").exists() {
        by_cwd(dir)
    } else {
        by_parent(root)
    };
    let all = found.clone();
    let depth = |member: &Member| {
        // A supervisor's server may have left it for init; the supervisor still counts as its ancestor.
        if Some(member.pid) == root {
            return 0;
        }
        let mut depth = 1;
        let mut at = member.parent;
        while let Some(parent) = all.iter().find(|other| other.pid == at) {
            depth += 1;
            at = parent.parent;
            // A pid reused between two reads could make this a circle.
            if depth > all.len() + 1 {
                break;
            }
        }
        depth
    };
    found.sort_by_cached_key(|member| std::cmp::Reverse(depth(member)));
    found
}

fn by_cwd(dir: &Path) -> Vec<Member> {
    let me = std::process::id().cast_signed();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
            if pid == me || !cwd.starts_with(dir) || !mark::is_on(&entry.path(), &cwd) {
                return None;
            }
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            member(pid, &stat)
        })
        .collect()
}

/// From a line of `/proc/PID/stat`; the command in parentheses may hold anything, parentheses too.
pub(super) fn member(pid: i32, stat: &str) -> Option<Member> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(Member {
        pid,
        parent,
        stopped: matches!(state, "T" | "t"),
    })
}

fn by_parent(root: Option<i32>) -> Vec<Member> {
    let Some(root) = root else { return Vec::new() };
    let Ok(output) = std::process::Command::new("ps")
        .args(["-axo", "pid=,ppid=,state="])
        .output()
    else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let pid = fields.next()?.parse().ok()?;
            let parent = fields.next()?.parse().ok()?;
            let state = fields.next()?;
            (!state.starts_with('Z')).then_some(Member {
                pid,
                parent,
                stopped: state.starts_with('T'),
            })
        })
        .collect();
    let mut found: Vec<Member> = all
        .iter()
        .filter(|member| member.pid == root)
        .copied()
        .collect();
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].pid;
        found.extend(
            all.iter()
                .filter(|member| member.parent == parent && member.pid != parent),
        );
        at += 1;
    }
    found
}

/// Sends `signal`; a process that has just ended is no error.
pub(super) fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    match kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills all members, again and again until none is found: what is being forked meanwhile is caught by the next look.
pub(super) fn kill_all(dir: &Path, root: Option<i32>, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let found = members(dir, root);
        if found.is_empty() {
            return Ok(());
        }
        // Ancestors first: what watches over others must not get the chance to start them anew.
        for member in found.iter().rev() {
            signal(member.pid, Signal::KILL)?;
        }
        if Instant::now() >= end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes did not die", found.len()),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stops all members, descendants first, until all are seen stopped.
pub(super) fn freeze_all(dir: &Path, root: Option<i32>, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let running: Vec<_> = members(dir, root)
            .into_iter()
            .filter(|member| !member.stopped)
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        for member in &running {
            signal(member.pid, Signal::STOP)?;
        }
        if Instant::now() >= end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes still run", running.len()),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Stops one member alone, until it is seen stopped.
pub(super) fn freeze_one(dir: &Path, pid: i32, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let found = members(dir, Some(pid));
        match found.iter().find(|member| member.pid == pid) {
            None => return Ok(()),
            Some(member) if member.stopped => return Ok(()),
            Some(_) => signal(pid, Signal::STOP)?,
        }
        if Instant::now() >= end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {pid} still runs"),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets all members go on.
pub(super) fn thaw_all(dir: &Path, root: Option<i32>) -> io::Result<()> {
    for member in members(dir, root).iter().rev() {
        signal(member.pid, Signal::CONT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_confuse_the_reader() {
        let line = "42 (a) b (c) T 7 42 42 0 -1";
        assert_eq!(
            member(42, line),
            Some(Member {
                pid: 42,
                parent: 7,
                stopped: true
            })
        );
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert_eq!(member(42, "42 (sh) Z 7 42 42 0 -1"), None);
    }
}
