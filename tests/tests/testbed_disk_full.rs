//! Beds on a file system that is really full: the error says so and what to do, and nothing is left running.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::PathBuf,
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use ha_testbed::{StartError, postgres::Postgres, process::leftover, redis::Redis};

/// A file system in memory, unmounted on drop.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// One of this many KiB, or none, with the reason printed, where this user may not mount.
    fn of(name: &str, kib: u32) -> Option<Self> {
        let own = format!("ha-testbed-disk-{name}-{kib}-{}", process::id());
        let at = std::env::temp_dir().join(own);
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=0755")])
            .arg("tmpfs")
            .arg(&at)
            .output();
        let refused = match mounted {
            Ok(output) if output.status.success() => return Some(Self { at }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        fs::remove_dir(&at).unwrap();
        eprintln!("skipped, no file system can be mounted: {refused}");
        None
    }

    fn bed(&self) -> PathBuf {
        self.at.join("bed")
    }

    fn unmount(&self) -> bool {
        let unmounted = Command::new("umount").arg(&self.at).output();
        unmounted.is_ok_and(|output| output.status.success()) && fs::remove_dir(&self.at).is_ok()
    }

    /// Checks that the error says where space is missing and what to do, and that nothing is left.
    fn refused(self, error: &StartError) {
        let StartError::DiskFull { dir, .. } = error else {
            panic!("not recognised as a full disk: {error:?}");
        };
        assert!(error.is_disk_full());
        assert!(dir.starts_with(self.bed()), "{error}");
        for said in [&dir.display().to_string(), "free some", "TMPDIR"] {
            assert!(error.to_string().contains(said), "{said} in {error}");
        }
        self.leaves_nothing();
    }

    /// Checks that nothing of the bed runs and that nobody keeps anything open on the disk. Whoever looks through `/proc` just now, as a
    /// janitor and the tests beside this one do, holds what it looks at for a moment.
    fn leaves_nothing(self) {
        assert_eq!(leftover::find(&[self.bed()]), [0; 0], "still running");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.unmount() {
            let holders = self.holders();
            assert!(Instant::now() < deadline, "open on the disk: {holders:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What processes have open here or stand in.
    fn holders(&self) -> Vec<PathBuf> {
        let links = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
        let of_process = |process: fs::DirEntry| {
            let fds = format!("{}/fd", process.path().display());
            let fds = links(&fds).map(|fd| fd.path()).collect::<Vec<_>>();
            fds.into_iter().chain([process.path().join("cwd")])
        };
        links("/proc")
            .flat_map(of_process)
            .filter(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(&self.at)))
            .collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// In the least of these nothing fits, not even the log that would say so.
#[tokio::test]
async fn postgres_on_a_full_disk_says_so_and_leaves_nothing() {
    const NAME: &str = "postgres";
    let bed = |disk: &Disk| Postgres::primary().replicas(1).dir(disk.bed());
    for kib in [4, 64, 20 * 1024, 48 * 1024] {
        let Some(disk) = Disk::of(NAME, kib) else {
            return;
        };
        let error = bed(&disk).start().await.unwrap_err();
        println!("{kib} KiB: {error}");
        disk.refused(&error);
    }
    let Some(disk) = Disk::of(NAME, 512 * 1024) else {
        return;
    };
    drop(bed(&disk).start().await.expect("it is only the space"));
    disk.leaves_nothing();
}

#[tokio::test]
async fn redis_on_a_full_disk_says_so_and_leaves_nothing() {
    const NAME: &str = "redis";
    let bed = |disk: &Disk| {
        Redis::sentinel(3)
            .setting("appendonly", "yes")
            .dir(disk.bed())
    };
    for kib in [4, 16, 24, 64] {
        let Some(disk) = Disk::of(NAME, kib) else {
            return;
        };
        let error = bed(&disk).start().await.unwrap_err();
        println!("{kib} KiB: {error}");
        disk.refused(&error);
    }
    let Some(disk) = Disk::of(NAME, 64 * 1024) else {
        return;
    };
    drop(bed(&disk).start().await.expect("it is only the space"));
    disk.leaves_nothing();
}
