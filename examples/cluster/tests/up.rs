//! The cluster as a visitor meets it: `up`, requests through both edges, a part killed, Ctrl-C; and `up` after a crash.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ha_cluster::status::{RunState, Status};
use ha_testbed::process::leftover;
use rustix::process::{Pid, Signal, kill_process};

/// Far more than it takes, because a loaded machine is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// A supervisor that is ended with the test, however the test ends.
struct Up {
    child: Child,
    lines: mpsc::Receiver<String>,
    dir: String,
}

impl Up {
    fn start(dir: &str, args: &[&str]) -> Self {
        let mut child = command(dir, &["up"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                eprintln!("up: {line}");
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            dir: dir.to_owned(),
        }
    }

    /// Waits for a line that contains this.
    #[track_caller]
    fn says(&self, needle: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(needle) => return,
                Ok(_) => {}
                Err(error) => panic!("`up` did not say {needle:?}: {error}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "`up` does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
        let _ = command(&self.dir, &["down"]).output();
    }
}

/// The smallest cluster.
const SMALL: [&str; 6] = ["--apps", "1", "--edges", "1", "--replicas", "0"];

fn command(dir: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ha-cluster"));
    command.args(args).args(["--dir", dir]);
    command
}

/// Runs a command that has to succeed.
#[track_caller]
fn done(dir: &str, args: &[&str]) -> Output {
    let output = command(dir, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

fn status(dir: &str) -> Status {
    let output = done(dir, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, needle: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(needle), "should say {needle:?}: {text}");
}

/// A client with cookies, as a browser has.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Browser {
    fn send(
        &mut self,
        to: SocketAddr,
        method: &str,
        path: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n",
            to.port()
        );
        head += &format!(
            "content-length: {}\r\ncontent-type: application/x-www-form-urlencoded\r\n",
            form.len()
        );
        if !cookies.is_empty() {
            head += &format!("cookie: {}\r\n", cookies.join("; "));
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        write!(stream, "{head}\r\n{form}").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        for line in head.lines() {
            if let Some(("set-cookie", value)) = line.split_once(": ") {
                let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Sends until it is answered with this status: during a failover the answer is "try again".
    #[track_caller]
    fn expect(
        &mut self,
        status: u16,
        to: SocketAddr,
        method: &str,
        path: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let end = Instant::now() + Duration::from_secs(40);
        loop {
            let answer = self.send(to, method, path, form, headers);
            if answer.status == status {
                return answer;
            }
            assert!(
                answer.status == 503 && Instant::now() < end,
                "{method} {path}: {} instead of {status}: {}",
                answer.status,
                answer.body
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What runs, to see later that nothing of it is left.
struct Footprint {
    dir: String,
    beds: Vec<PathBuf>,
    pids: Vec<u32>,
    addresses: Vec<String>,
}

impl Footprint {
    fn of(up: &Up) -> Self {
        let parts = status(&up.dir).parts;
        let pids = parts.iter().filter_map(|part| part.pid);
        Self {
            dir: up.dir.clone(),
            beds: beds(&up.dir),
            pids: pids.chain([up.child.id()]).collect(),
            addresses: parts.into_iter().map(|part| part.address).collect(),
        }
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert_eq!(leftover::find(&self.beds), [0; 0], "{:?}", self.beds);
        for pid in &self.pids {
            assert!(!leftover::is_alive(*pid), "process {pid} is alive");
        }
        for address in &self.addresses {
            assert_free(address);
        }
        assert_eq!(files(&self.dir), ["lock"]);
        let links = &self.beds[1..];
        assert!(links.iter().all(|bed| !bed.exists()), "{links:?}");
    }
}

#[track_caller]
fn assert_free(address: &str) {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address} is still taken: {error}"));
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
fn up_serves_through_both_edges_survives_a_kill_and_leaves_nothing_after_ctrl_c() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cluster").to_str().unwrap().to_owned();
    let mut up = Up::start(&dir, &[]);
    up.says("Ctrl-C here");

    let status_before = status(&dir);
    assert!(
        status_before
            .parts
            .iter()
            .all(|part| part.state == RunState::Running),
        "{status_before}"
    );
    assert_eq!(status_before.edges.len(), 2);
    let (first, second) = (status_before.edges[0], status_before.edges[1]);
    let role = |status: &Status, role: &str| {
        status
            .parts
            .iter()
            .filter(|part| part.role.as_deref() == Some(role))
            .count()
    };
    assert_eq!(role(&status_before, "primary"), 1, "{status_before}");
    assert_eq!(role(&status_before, "master"), 1, "{status_before}");
    assert_eq!(role(&status_before, "sync"), 1, "{status_before}");
    assert_eq!(role(&status_before, "3/3 apps"), 2, "{status_before}");

    // A second one is told what runs.
    let again = command(&dir, &["up"]).output().unwrap();
    refused(&again, "already running");
    refused(&again, "sentinel-3");
    refused(
        &command(&dir, &["kill", "app-9"]).output().unwrap(),
        "app-1, app-2, app-3, pg-1",
    );
    refused(
        &command(&dir, &["start", "app-1"]).output().unwrap(),
        "running already",
    );
    refused(
        &command(&dir, &["logs", "app-9"]).output().unwrap(),
        "app-1, app-2, app-3, pg-1",
    );

    // What one edge took is read through the other.
    let mut ada = Browser::default();
    let signed_out = ada.send(first, "GET", "/notes", "", &[]);
    assert_eq!(signed_out.status, 401);
    let signed_in = ada.expect(200, first, "POST", "/sign-in", "user=ada", &[]);
    assert_eq!(signed_in.header("x-ha-edge"), Some("edge-1"));
    let key = [("idempotency-key", "the-first")];
    let added = ada.expect(201, second, "POST", "/notes", "text=hello", &key);
    assert_eq!(added.header("x-ha-edge"), Some("edge-2"));
    assert!(added.header("x-ha-app").unwrap().starts_with("app-"));
    let primary = status_before
        .parts
        .iter()
        .find(|part| part.role.as_deref() == Some("primary"))
        .unwrap();
    assert_eq!(added.header("x-ha-db-node"), Some(primary.name.as_str()));
    let replayed = ada.expect(201, first, "POST", "/notes", "text=hello", &key);
    assert_eq!(replayed.body, added.body);
    let notes = ada.expect(200, first, "GET", "/notes", "", &[]);
    assert_eq!(notes.body.matches("hello").count(), 1, "{}", notes.body);
    let me = ada.expect(200, second, "GET", "/whoami", "", &[]);
    assert!(me.body.contains("\"user\":\"ada\""), "{}", me.body);

    // Somebody else with the same key gets an answer of their own.
    let mut eve = Browser::default();
    eve.expect(200, first, "POST", "/sign-in", "user=eve", &[]);
    let other = eve.expect(201, first, "POST", "/notes", "text=hello", &key);
    assert_ne!(other.body, added.body);

    // What makes no sense is refused by what it is.
    assert_eq!(ada.send(first, "GET", "/nowhere", "", &[]).status, 404);
    assert_eq!(ada.send(first, "POST", "/notes", "text=", &[]).status, 400);
    assert_eq!(
        ada.send(
            first,
            "POST",
            "/notes",
            &format!("text={}", "x".repeat(100_000)),
            &[]
        )
        .status,
        413
    );
    assert_eq!(
        ada.send(first, "POST", "/notes", "text=other", &key).status,
        422
    );
    let mut garbled = Browser::default();
    garbled
        .cookies
        .insert("id".to_owned(), "garbage".to_owned());
    assert_eq!(garbled.send(first, "GET", "/whoami", "", &[]).status, 401);
    let mut forged = Browser {
        cookies: ada.cookies.clone(),
    };
    forged
        .cookies
        .insert("ha-causal".to_owned(), "awEvxxxx".to_owned());
    assert_eq!(forged.send(first, "GET", "/notes", "", &[]).status, 200);

    // The primary dies; the note stays, and new ones are taken again.
    done(&dir, &["kill", &primary.name]);
    let read = ada.send(first, "GET", "/notes", "", &[]);
    assert_eq!(
        (read.status, read.body.matches("hello").count()),
        (200, 1),
        "{}",
        read.body
    );
    ada.expect(
        201,
        second,
        "POST",
        "/notes",
        "text=after",
        &[("idempotency-key", "the-second")],
    );
    let notes = ada.expect(200, first, "GET", "/notes", "", &[]);
    assert_eq!(notes.body.matches("after").count(), 1, "{}", notes.body);
    let after = status(&dir);
    assert_eq!(after.part(&primary.name).unwrap().state, RunState::Dead);
    refused(
        &command(&dir, &["kill", &primary.name]).output().unwrap(),
        "dead already",
    );

    // A frozen part is seen as such and goes on.
    done(&dir, &["stop", "app-2"]);
    assert_eq!(status(&dir).part("app-2").unwrap().state, RunState::Frozen);
    done(&dir, &["start", "app-2"]);
    assert_eq!(status(&dir).part("app-2").unwrap().state, RunState::Running);

    let logs = done(&dir, &["logs", "app-1", "-n", "5"]);
    assert!(!logs.stdout.is_empty());

    let running = Footprint::of(&up);
    up.signal(Signal::INT);
    assert!(up.wait().success());
    running.assert_gone();
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
    refused(
        &command(&dir, &["status"]).output().unwrap(),
        "did not end properly",
    );

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
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        let mut up = Up::start(dir, &["--port", &port.to_string()]);
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
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            assert_free(&address);
        }
    }
}
