//! A supervisor under test, and the other commands beside it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ha_cluster::status::Status;
use ha_testbed::ports::Reservation;
use rustix::process::{Pid, Signal, kill_process};

/// Far more than it takes, because a loaded machine is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// A supervisor that is ended with the test, however the test ends.
pub(crate) struct Up {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
    pub(crate) dir: String,
    /// The port of the edges: nobody else's while this is held.
    pub(crate) port: Arc<Reservation>,
}

impl Up {
    pub(crate) fn start(dir: &str, args: &[&str]) -> Self {
        let port = Reservation::take(1).unwrap();
        let mut child = command(dir, &["up"])
            .args(["--port", &port.ports()[0].to_string()])
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
            port: Arc::new(port),
        }
    }

    /// Waits for a line that contains this.
    #[track_caller]
    pub(crate) fn says(&self, needle: &str) {
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

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
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
pub(crate) const SMALL: [&str; 6] = ["--apps", "1", "--edges", "1", "--replicas", "0"];

fn command(dir: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ha-cluster"));
    command.args(args).args(["--dir", dir]);
    command
}

/// Runs a command that has to succeed.
#[track_caller]
pub(crate) fn done(dir: &str, args: &[&str]) -> Output {
    let output = command(dir, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

pub(crate) fn status(dir: &str) -> Status {
    let output = done(dir, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that has to be refused with these words.
#[track_caller]
pub(crate) fn refused(dir: &str, args: &[&str], words: &str) {
    let output = command(dir, args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(
        text.contains(words),
        "{args:?} should say {words:?}: {text}"
    );
}
