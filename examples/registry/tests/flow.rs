//! The example's own processes on real stores: apps that come, drain and are killed, and an edge that follows.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use ha_testbed::postgres::Postgres;
use ha_testbed::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_registry-example");

/// An app or an edge, which ends with this.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Running {
    /// Starts it on a free port.
    async fn start(what: &str, store: &str) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([what, store, "0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
        let first = first.expect("says where it is");
        let address = first.strip_prefix(&format!("{what} on http://")).unwrap();
        let address = address.split(';').next().unwrap().parse().unwrap();
        Self {
            child,
            lines,
            address,
        }
    }

    /// The next line with these words.
    async fn says(&mut self, words: &str) -> String {
        let mut seen = Vec::new();
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(words) {
                    return line;
                }
                seen.push(line);
            }
            panic!("ended without {words:?}");
        };
        match timeout(DEADLINE, reading).await {
            Ok(line) => line,
            Err(_) => panic!("not {words:?} but {seen:?}"),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap()
    }
}

/// What the edge answers; empty where it does not answer well.
async fn get(edge: SocketAddr) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(edge).await?;
        let request = "GET / HTTP/1.1\r\nhost: apps.example\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(DEADLINE, asking).await.expect("an answer").unwrap();
    let body = answer
        .strip_prefix("HTTP/1.1 200 OK")
        .and_then(|rest| rest.split_once("\r\n\r\n"));
    body.map(|(_, body)| body.trim().to_owned())
        .unwrap_or_default()
}

/// Who serves: asks until these do and nobody else, all of them well answered.
async fn served_by(edge: SocketAddr, apps: &[&Running]) {
    let expected: BTreeSet<String> = apps
        .iter()
        .map(|app| format!("{} served you", app.address))
        .collect();
    let end = Instant::now() + DEADLINE;
    loop {
        let mut seen = BTreeSet::new();
        for _ in 0..4 * apps.len() {
            let line = get(edge).await;
            assert!(!line.is_empty(), "a request failed");
            seen.insert(line);
        }
        if seen == expected {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}, not {expected:?}");
    }
}

async fn stops(mut process: Running) {
    process.signal(Signal::INT);
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn apps_that_drain_or_are_killed_leave_and_requests_go_on_also_without_the_store() {
    let redis = Redis::single().start().await.unwrap();
    let store = redis.url();
    let mut edge = Running::start("edge", &store).await;
    let one = Running::start("app", &store).await;
    edge.says("1 endpoints: came ").await;
    let two = Running::start("app", &store).await;
    edge.says("2 endpoints: came ").await;
    let mut three = Running::start("app", &store).await;
    edge.says("3 endpoints: came ").await;
    served_by(edge.address, &[&one, &two, &three]).await;

    // Ctrl-C: out of the set before its port closes.
    let drained = one.address.to_string();
    let mut one = one;
    one.signal(Signal::INT);
    let line = edge.says("2 endpoints: ").await;
    let (_, went) = line.split_once("went").unwrap();
    assert!(went.contains(&drained), "{line}");
    served_by(edge.address, &[&two, &three]).await;
    one.says("drained; 0 requests cut").await;
    assert!(one.ended().await.success());

    // kill -9: requests go on, and the edge says when it is sure.
    let killed = three.address.to_string();
    three.child.kill().await.unwrap();
    served_by(edge.address, &[&two]).await;
    let line = edge.says("1 endpoints: ").await;
    assert!(line.contains(&killed), "{line}");

    // Without the store nothing changes.
    redis.nodes[0].kill().await.unwrap();
    served_by(edge.address, &[&two]).await;
    redis.nodes[0].start().await.unwrap();
    let four = Running::start("app", &store).await;
    edge.says("2 endpoints: came ").await;
    served_by(edge.address, &[&two, &four]).await;
    for process in [four, two, edge] {
        stops(process).await;
    }
}

#[tokio::test]
async fn in_postgresql_it_is_the_same() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let urls = cluster.nodes.iter().map(|node| {
        let port = node.addr().port();
        format!("postgresql://postgres@127.0.0.1:{port}/postgres")
    });
    let store = urls.collect::<Vec<_>>().join(" ");
    let mut edge = Running::start("edge", &store).await;
    let one = Running::start("app", &store).await;
    let two = Running::start("app", &store).await;
    edge.says("2 endpoints: came ").await;
    served_by(edge.address, &[&one, &two]).await;
    stops(one).await;
    edge.says("1 endpoints: ").await;
    served_by(edge.address, &[&two]).await;
    stops(two).await;
    stops(edge).await;
}

async fn run(args: &[&str]) -> Output {
    let running = Command::new(PROGRAM).args(args).kill_on_drop(true).output();
    timeout(DEADLINE, running).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name_and_value() {
    for (args, status, words) in [
        (&["app"][..], 2, "usage: "),
        (&["app", "redis://127.0.0.1", "port"], 1, "PORT is \"port\""),
        (&["app", "http://127.0.0.1", "0"], 1, "http"),
        (&["dance", "redis://127.0.0.1", "0"], 1, "usage: "),
    ] {
        let output = run(args).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
}
