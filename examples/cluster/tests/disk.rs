//! `up` on a disk without room: what is said, how it ends, and that nothing is left.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ha_testbed::process::leftover;

/// Far more than it takes, because a loaded machine is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: usize = 1024 * 1024;

/// A file system in memory, unmounted with the test.
struct Disk {
    at: tempfile::TempDir,
}

impl Disk {
    /// `None`, with the reason printed, where nothing may be mounted.
    fn of(size: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755")])
            .args(["tmpfs".as_ref(), at.path()])
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { at }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                eprintln!("skipped, no tmpfs can be mounted: {}", why.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped, `mount` cannot be run: {error}");
                None
            }
        }
    }

    fn dir(&self) -> PathBuf {
        self.at.path().join("cluster")
    }

    /// Takes all the room there is, until the file is removed.
    fn fill(&self) {
        let mut file = fs::File::create(self.at.path().join("filler")).unwrap();
        let block = vec![0; MIB];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.at.path()).status();
        if !std::thread::panicking() {
            assert!(
                unmounted.unwrap().success(),
                "something still uses the disk"
            );
        }
    }
}

fn up(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ha-cluster"))
        .args(["up", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ended by force when it does not end by itself.
fn ended(mut up: Child) -> Output {
    let end = Instant::now() + PATIENCE;
    while up.try_wait().unwrap().is_none() {
        if Instant::now() >= end {
            up.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    up.wait_with_output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, dir: &Path, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for needle in [what, dir.to_str().unwrap(), "--dir DIR"] {
        assert!(text.contains(needle), "should say {needle:?}: {text}");
    }
    assert_eq!(leftover::find(&[dir.to_owned()]), [0; 0]);
    let left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_disk_without_room_is_refused_before_anything_runs() {
    let Some(disk) = Disk::of("40m") else { return };
    let output = ended(up(&disk.dir()));
    assert_refused(&output, &disk.dir(), "39 MiB are free");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_disk_that_fills_up_during_the_start_is_named_and_the_servers_are_ended() {
    let Some(disk) = Disk::of("1100m") else {
        return;
    };
    let mut child = up(&disk.dir());
    let end = Instant::now() + PATIENCE;
    // The first servers are there and at work; more is to come.
    while !disk.dir().join("postgres/patroni-0/data").exists() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    disk.fill();
    assert_refused(&ended(child), &disk.dir(), "is full");
}
