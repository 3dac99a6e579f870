//! Asks the servers what they are, with deadlines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client;

/// How long one server gets to say what it is: they are on this machine, and a frozen one never answers.
pub(super) const LIMIT: Duration = Duration::from_millis(500);

/// Longest answer of a Redis that is read; `INFO replication` is well below a kilobyte.
const MAX_INFO: usize = 16 * 1024;

/// What Patroni says of one member.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: String,
}

impl Member {
    /// In the words of this project.
    pub(super) fn role(&self) -> &'static str {
        match self.role.as_str() {
            "leader" | "master" | "primary" => "primary",
            "sync_standby" => "sync",
            _ => "replica",
        }
    }

    pub(super) fn is_primary(&self) -> bool {
        self.role() == "primary"
    }
}

/// What an agent says of its own PostgreSQL, asked now: what the members say of each other may be seconds old.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Itself {
    role: String,
    state: String,
    /// What a primary sees of its replicas.
    #[serde(default)]
    replication: Vec<Follower>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Follower {
    application_name: String,
    state: String,
    sync_state: String,
}

impl Itself {
    pub(super) fn is_primary(&self) -> bool {
        matches!(self.role.as_str(), "leader" | "master" | "primary") && self.state == "running"
    }

    /// The names of those that receive its log.
    pub(super) fn streaming(&self) -> Vec<&str> {
        let streaming = self
            .replication
            .iter()
            .filter(|follower| follower.state == "streaming");
        streaming
            .map(|follower| follower.application_name.as_str())
            .collect()
    }

    /// Whether a write waits for one of them.
    pub(super) fn is_synchronous(&self) -> bool {
        self.replication.iter().any(|follower| {
            follower.state == "streaming"
                && matches!(follower.sync_state.as_str(), "sync" | "quorum")
        })
    }
}

/// What the agent at this address says of its own PostgreSQL.
pub(super) async fn itself(rest: SocketAddr) -> Option<Itself> {
    let (_, body) = client::send(Method::GET, rest, "/patroni", LIMIT)
        .await
        .ok()?;
    serde_json::from_slice(&body).ok()
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

/// What the members of a Patroni cluster say of each other: the first answer wins.
pub(super) async fn members(rest: &[SocketAddr]) -> Vec<Member> {
    let mut asking: futures_util::stream::FuturesUnordered<_> = rest
        .iter()
        .map(|&address| async move {
            let (status, body) = client::send(Method::GET, address, "/cluster", LIMIT)
                .await
                .ok()?;
            let members: Members = serde_json::from_slice(&body).ok()?;
            (status == StatusCode::OK).then_some(members.members)
        })
        .collect();
    while let Some(answer) = futures_util::StreamExt::next(&mut asking).await {
        if let Some(members) = answer {
            return members;
        }
    }
    Vec::new()
}

/// The fields of a Redis server's `INFO replication`.
pub(super) async fn replication(address: SocketAddr) -> Option<BTreeMap<String, String>> {
    timeout(LIMIT, info(address)).await.ok()?
}

async fn info(address: SocketAddr) -> Option<BTreeMap<String, String>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"INFO replication\r\n").await.ok()?;
    let mut read = Vec::new();
    loop {
        if let Some(body) = bulk(&read) {
            return Some(fields(body));
        }
        if read.len() > MAX_INFO || stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Whom a Sentinel takes for the master.
pub(super) async fn master(sentinel: SocketAddr) -> Option<SocketAddr> {
    timeout(LIMIT, ask_master(sentinel)).await.ok()?
}

async fn ask_master(sentinel: SocketAddr) -> Option<SocketAddr> {
    let mut stream = TcpStream::connect(sentinel).await.ok()?;
    let name = ha_testbed::redis::MASTER_NAME;
    let command = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {name}\r\n");
    stream.write_all(command.as_bytes()).await.ok()?;
    let mut read = Vec::new();
    loop {
        if let Some(address) = host_and_port(&read) {
            return Some(address);
        }
        if read.len() > MAX_INFO || stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// A complete array of host and port (`*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n`).
fn host_and_port(bytes: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.strip_prefix("*2\r\n")?.split_terminator("\r\n");
    let (_, host, _, port) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    if !text.ends_with("\r\n") {
        return None;
    }
    Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
}

/// The text of a complete bulk string (`$LENGTH\r\nTEXT\r\n`).
fn bulk(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (length, rest) = text.strip_prefix('$')?.split_once("\r\n")?;
    rest.get(..length.parse().ok()?)
}

fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replicas_that_stream_now_count() {
        let text = r#"{"state": "running", "role": "master", "server_version": 150018, "replication": [
            {"usename": "replicator", "application_name": "a", "state": "streaming", "sync_state": "async"},
            {"usename": "replicator", "application_name": "b", "state": "catchup", "sync_state": "sync"}]}"#;
        let itself: Itself = serde_json::from_str(text).unwrap();
        assert!(itself.is_primary() && !itself.is_synchronous());
        assert_eq!(itself.streaming(), ["a"]);
        let replica: Itself =
            serde_json::from_str(r#"{"state": "running", "role": "replica"}"#).unwrap();
        assert!(!replica.is_primary() && replica.streaming().is_empty());
    }

    #[test]
    fn a_bulk_string_is_read_when_it_is_complete() {
        assert_eq!(bulk(b"$4\r\nrole\r\n"), Some("role"));
        for incomplete in [
            "",
            "$",
            "$4",
            "$4\r\nro",
            "+OK\r\n",
            "$x\r\nrole",
            "-ERR no\r\n",
            "$-1\r\n",
        ] {
            assert_eq!(bulk(incomplete.as_bytes()), None, "{incomplete:?}");
        }
    }

    #[test]
    fn a_masters_address_is_read_when_it_is_complete() {
        let whole = "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n";
        assert_eq!(
            host_and_port(whole.as_bytes()),
            "127.0.0.1:6379".parse().ok()
        );
        for end in 0..whole.len() {
            assert_eq!(
                host_and_port(&whole.as_bytes()[..end]),
                None,
                "{:?}",
                &whole[..end]
            );
        }
        assert_eq!(host_and_port(b"*-1\r\n"), None);
    }

    #[test]
    fn info_is_read_field_by_field() {
        let fields = fields("# Replication\r\nrole:slave\r\nmaster_link_status:up\r\n");
        assert_eq!(fields["role"], "slave");
        assert_eq!(fields["master_link_status"], "up");
    }
}
