//! The nodes together: how to reach them, and who is the master.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ::redis::{FromRedisValue as _, Value, cmd};

use super::{MASTER_NAME, Node};
use crate::{StartError, error::chain, ports::Reservation, process::Bed, wait};

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The Redis nodes; number 0 was started as the master.
    pub nodes: Vec<Node>,
    /// The Sentinels; none for [`Redis::single`](super::Redis::single).
    pub sentinels: Vec<Node>,
    pub(super) certificates: Option<PathBuf>,
    pub(super) bed: Bed,
    pub(super) _ports: Reservation,
}

impl Cluster {
    /// Where the nodes keep their state and logs.
    pub fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// The addresses of the Redis nodes, as `redis://127.0.0.1:PORT`.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// The address of the first node.
    pub fn url(&self) -> String {
        format!(
            "redis://127.0.0.1:{}",
            self.nodes.first().map_or(0, |node| node.port)
        )
    }

    /// The certificate of who signed the servers' certificates, as PEM; none without [`Builder::tls`](super::Builder::tls).
    ///
    /// # Errors
    ///
    /// When its file cannot be read.
    pub fn ca(&self) -> Result<Vec<u8>, StartError> {
        let Some(dir) = &self.certificates else {
            return Ok(Vec::new());
        };
        fs::read(dir.join("ca.pem")).map_err(StartError::io("tls", "read a certificate"))
    }

    /// Where that certificate lies.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(|dir| dir.join("ca.pem"))
    }

    /// The address through the Sentinels, as `redis+sentinel://HOST:PORT,HOST:PORT,HOST:PORT/mymaster`.
    pub fn sentinel_url(&self) -> String {
        let all: Vec<_> = self
            .sentinels
            .iter()
            .map(|node| node.addr().to_string())
            .collect();
        format!("redis+sentinel://{}/{MASTER_NAME}", all.join(","))
    }

    /// Which node the majority of the reachable Sentinels calls the master, checked with its own `ROLE`; without
    /// Sentinels, the first node that calls itself one.
    ///
    /// # Errors
    ///
    /// When there is none within 10 s.
    pub async fn master(&self) -> Result<usize, StartError> {
        self.find_master(None, Duration::from_secs(10)).await
    }

    /// Waits until another node than `old` is the master: after a failover, that is.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_master_other_than(
        &self,
        old: usize,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        self.find_master(Some(old), deadline).await
    }

    async fn find_master(
        &self,
        not: Option<usize>,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        let what = if not.is_some() {
            "failed over"
        } else {
            "agreed on a master"
        };
        let waited = wait::until(deadline, Duration::from_millis(50), async || {
            match self.look_for_master().await {
                Ok(found) if Some(found) == not => Err(format!("redis-{found} still is")),
                other => other,
            }
        });
        waited.await.map_err(|last| StartError::Deadline {
            part: "Redis".to_owned(),
            port: None,
            what,
            after: deadline,
            last,
            log: self
                .sentinels
                .first()
                .map(|node| node.process.log_tail(20))
                .unwrap_or_default(),
        })
    }

    async fn look_for_master(&self) -> Result<usize, String> {
        let mut votes = vec![0_usize; self.nodes.len()];
        for sentinel in &self.sentinels {
            let named: Result<Option<(String, u16)>, _> = sentinel
                .query(
                    cmd("SENTINEL")
                        .arg("GET-MASTER-ADDR-BY-NAME")
                        .arg(MASTER_NAME),
                )
                .await;
            let index = named.ok().flatten().and_then(|(_, port)| {
                self.nodes
                    .iter()
                    .position(|node| node.announced().port() == port)
            });
            if let Some(index) = index {
                votes[index] += 1;
            }
        }
        let candidates: Vec<usize> = match votes.iter().max() {
            Some(0) | None => (0..self.nodes.len()).collect(),
            Some(most) => votes
                .iter()
                .position(|count| count == most)
                .into_iter()
                .collect(),
        };
        let mut seen = format!("the Sentinels' votes by node: {votes:?}");
        for index in candidates {
            let role: Result<Value, _> = self.nodes[index].query(&cmd("ROLE")).await;
            match role {
                Ok(Value::Array(parts)) => {
                    let role = parts.first().map(String::from_redis_value_ref);
                    if matches!(&role, Some(Ok(role)) if role == "master") {
                        return Ok(index);
                    }
                    seen.push_str(&format!("; redis-{index} says {role:?}"));
                }
                Ok(other) => seen.push_str(&format!("; redis-{index} says {other:?}")),
                Err(error) => seen.push_str(&format!("; redis-{index}: {}", chain(&error))),
            }
        }
        Err(seen)
    }
}
