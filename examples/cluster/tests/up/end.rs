//! How a cluster ends: Ctrl-C at any moment, a crash, `down`; and what is left, which is nothing.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::time::Duration;

use ha_testbed::ports::{self, Reservation};
use ha_testbed::process::leftover;
use rustix::process::Signal;

use crate::supervisor::{SMALL, Up, done, refused, status};

/// What runs, to see later that nothing of it is left.
pub(crate) struct Footprint {
    dir: String,
    beds: Vec<PathBuf>,
    pids: Vec<u32>,
    addresses: Vec<SocketAddr>,
    port: Arc<Reservation>,
}

impl Footprint {
    pub(crate) fn of(up: &Up) -> Self {
        let parts = status(&up.dir).parts;
        let pids = parts.iter().filter_map(|part| part.pid);
        Self {
            dir: up.dir.clone(),
            beds: beds(&up.dir),
            pids: pids.chain([up.child.id()]).collect(),
            addresses: parts
                .into_iter()
                .map(|part| part.address.parse().unwrap())
                .collect(),
            port: up.port.clone(),
        }
    }

    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(leftover::find(&self.beds), [0; 0], "{:?}", self.beds);
        for pid in &self.pids {
            assert!(!leftover::is_alive(*pid), "process {pid} is alive");
        }
        for address in &self.addresses {
            assert_free(*address, &self.port);
        }
        assert_eq!(files(&self.dir), ["lock"]);
        let links = &self.beds[1..];
        assert!(links.iter().all(|bed| !bed.exists()), "{links:?}");
    }
}

#[track_caller]
fn assert_free(address: SocketAddr, own: &Reservation) {
    if let Err(error) = TcpListener::bind(address) {
        // A port that is not ours any more may be another test bed's by now.
        let by_others =
            !own.ports().contains(&address.port()) && ports::is_reserved(address.port());
        assert!(by_others, "{address} is still taken: {error}");
    }
}

fn files(dir: &str) -> Vec<OsString> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// The cluster's directory and the ones that it links to.
fn beds(dir: &str) -> Vec<PathBuf> {
    let inside = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let links = inside
        .filter(|path| path.is_symlink())
        .map(|path| std::fs::canonicalize(path).unwrap());
    [Path::new(dir).to_owned()]
        .into_iter()
        .chain(links)
        .collect()
}

#[test]
fn after_a_crash_of_the_supervisor_up_starts_and_down_ends() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cluster").to_str().unwrap().to_owned();
    let mut first = Up::start(&dir, &SMALL);
    first.says("Ctrl-C here");
    let (old, old_beds) = (status(&dir), beds(&dir));
    first.signal(Signal::KILL);
    first.wait();
    refused(&dir, &["status"], "did not end properly");

    let mut second = Up::start(&dir, &SMALL);
    second.says("cleaned up");
    assert!(leftover::find(&old_beds[1..]).is_empty());
    second.says("Ctrl-C here");
    for part in &old.parts {
        assert!(
            !part.pid.is_some_and(leftover::is_alive),
            "{} of the crashed run is alive",
            part.name
        );
    }
    let running = Footprint::of(&second);
    done(&dir, &["down"]);
    assert!(second.wait().success());
    running.assert_gone();
}

/// A shell of the user's that works in this directory, with output elsewhere.
struct Bystander(Child);

impl Bystander {
    fn at(dir: &Path) -> Self {
        let sleep = Command::new("sleep")
            .arg("600")
            .current_dir(dir)
            .spawn()
            .unwrap();
        Self(sleep)
    }

    #[track_caller]
    fn assert_alive(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "a bystander was hit");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn down_right_after_a_crash_ends_what_the_cluster_started_and_nobody_elses_shell() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cluster").to_str().unwrap().to_owned();
    let mut up = Up::start(&dir, &SMALL);
    up.says("Ctrl-C here");
    let running = Footprint::of(&up);
    let inside = [&dir, &format!("{dir}/run"), &format!("{dir}/run/app-1")];
    let mut bystanders = inside.map(|dir| Bystander::at(Path::new(dir)));
    up.signal(Signal::KILL);
    done(&dir, &["down"]);
    up.wait();
    running.assert_gone();
    bystanders.iter_mut().for_each(Bystander::assert_alive);
}

/// Every process that names this directory in its command line, which the watchers of the test bed do too.
#[cfg(target_os = "linux")]
fn naming(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let names = |path: &PathBuf| {
        std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(dir))
    };
    paths.filter(names).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_at_any_moment_of_the_start_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // Most of them while the first things are made, the rest anywhere in the start.
    let moments = [0, 2, 5, 10, 20, 60].map(Duration::from_millis);
    let later = (0..5).map(|_| Duration::from_millis(fastrand::u64(100..4_000)));
    for (round, moment) in moments.into_iter().chain(later).enumerate() {
        let dir = temp.path().join(round.to_string());
        let dir = dir.to_str().unwrap();
        let mut up = Up::start(dir, &[]);
        // Not a wait for something to have happened: whatever has happened by then is interrupted.
        std::thread::sleep(moment);
        up.signal(Signal::INT);
        let status = up.wait();
        // Before the handler is there the signal ends the program as any other, and nothing has been started.
        let by_signal = status.signal() == Some(Signal::INT.as_raw());
        assert!(status.success() || by_signal, "{moment:?}: {status}");
        assert_eq!(naming(dir), [""; 0].map(PathBuf::from), "{moment:?}");
        let left = files(dir);
        assert!(
            left.iter().all(|file| file == "lock"),
            "{moment:?}: {left:?}"
        );
        let port = up.port.ports()[0];
        for address in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            (Ipv6Addr::LOCALHOST, port).into(),
        ] {
            assert_free(address, &up.port);
        }
    }
}
