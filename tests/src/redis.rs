//! Redis, alone or with replicas and Sentinel.
//!
//! ```no_run
//! use std::time::Duration;
//! use ha_testbed::redis::Redis;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::sentinel(3).start().await?;
//! let old = redis.master().await?;
//! redis.nodes[old].kill().await?;
//! let new = redis.wait_master_other_than(old, Duration::from_secs(30)).await?;
//! assert_ne!(old, new);
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! [`Redis::sentinel`]`(3)` starts a master, two replicas and three Sentinels that watch over `mymaster`:
//!
//! | setting | value | why |
//! |---|---|---|
//! | quorum | 2 | one Sentinel alone may be wrong |
//! | `down-after-milliseconds` | 2000 | long enough for a busy machine, short enough for a test |
//! | `failover-timeout` | 10000 | a second failover of the same master has to wait twice this |
//! | `min-replicas-to-write` | as Redis has it: 0 | set it with [`Builder::setting`] to test the loss of writes |
//! | persistence | off | a killed node comes back empty and copies from the master |
//!
//! A killed master that is started at once, before the Sentinels notice, is an **empty master** and its replicas copy
//! that emptiness: this is how Redis is. Use `.setting("appendonly", "yes")` where a node has to come back with its data.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ::redis::{Client, Cmd, FromRedisValue, RedisError, cmd};

use crate::{
    StartError,
    error::chain,
    parts::{builder_choices, node_controls, program},
    ports::{Reservation, elsewhere},
    process::{Bed, Process, Spec},
    setup::Tool,
    wait,
};

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(60);

/// The name the Sentinels know the master by.
pub const MASTER_NAME: &str = "mymaster";

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Redis;

impl Redis {
    /// One Redis by itself.
    pub fn single() -> Builder {
        Builder {
            replicas: 0,
            sentinels: 0,
            settings: Vec::new(),
            dir: None,
        }
    }

    /// A master, two replicas, and `sentinels` Sentinels that need a majority of themselves to fail over.
    pub fn sentinel(sentinels: usize) -> Builder {
        Builder {
            replicas: 2,
            sentinels,
            ..Self::single()
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    sentinels: usize,
    settings: Vec<(String, String)>,
    dir: Option<PathBuf>,
}

impl Builder {
    /// How many replicas the master has. Default: 2 with Sentinels, else none.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    builder_choices!("redis.conf");

    /// Starts everything and returns when the replicas are in step and all Sentinels know each other and them.
    ///
    /// # Errors
    ///
    /// When Redis is not installed or does not start; the message holds the end of its log.
    ///
    /// # Cancel safety
    ///
    /// What has been started ends when the future is dropped.
    pub async fn start(self) -> Result<Cluster, StartError> {
        elsewhere(async || self.start_once().await).await
    }

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let server = program("Redis", Tool::Redis)?;
        let sentinel = if self.sentinels > 0 {
            Some(program("Redis", Tool::Sentinel)?)
        } else {
            None
        };
        let bed = Bed::choose(self.dir.as_deref())?;
        let count = 1 + self.replicas + self.sentinels;
        let ports = Reservation::take(count).map_err(StartError::io("Redis", "reserve ports"))?;
        let (data_ports, sentinel_ports) = ports.ports().split_at(1 + self.replicas);

        let mut nodes = Vec::new();
        for (i, port) in data_ports.iter().enumerate() {
            let of = (i > 0).then(|| data_ports[0]);
            nodes.push(Node::spawn(
                &bed,
                &server,
                format!("redis-{i}"),
                *port,
                &self.configuration(*port, of),
                None,
            )?);
        }
        for node in &nodes {
            node.wait_ready().await?;
        }
        let cluster_of = |nodes, sentinels, bed, ports| Cluster {
            nodes,
            sentinels,
            bed,
            _ports: ports,
        };
        nodes[0]
            .wait("joined by its replicas", STEP, async |node: &Node| {
                let info: String = node.query(cmd("INFO").arg("replication")).await?;
                let online = info
                    .lines()
                    .filter(|line| line.starts_with("slave") && line.contains("state=online"));
                Ok(if online.count() == self.replicas {
                    Ok(())
                } else {
                    Err(info)
                })
            })
            .await?;

        let mut sentinels = Vec::new();
        if let Some(program) = sentinel {
            let conf = self.sentinel_configuration(data_ports[0]);
            for (i, port) in sentinel_ports.iter().enumerate() {
                let text = format!("port {port}\n{conf}");
                let mode = Some("--sentinel");
                sentinels.push(Node::spawn(
                    &bed,
                    &program,
                    format!("sentinel-{i}"),
                    *port,
                    &text,
                    mode,
                )?);
            }
        }
        let (others, replicas) = (self.sentinels.saturating_sub(1), self.replicas);
        for sentinel in &sentinels {
            sentinel.wait_ready().await?;
            sentinel
                .wait("aware of all others", STEP, async |node: &Node| {
                    let fields: std::collections::HashMap<String, String> = node
                        .query(cmd("SENTINEL").arg("MASTER").arg(MASTER_NAME))
                        .await?;
                    let number =
                        |key: &str| fields.get(key).and_then(|text| text.parse::<usize>().ok());
                    let known = number("num-slaves") >= Some(replicas)
                        && number("num-other-sentinels") == Some(others)
                        && fields.get("flags").is_some_and(|flags| flags == "master");
                    if !known {
                        return Ok(Err(format!("{fields:?}")));
                    }
                    // A replica is only fit for promotion once the Sentinel has heard from it.
                    let listed: Vec<std::collections::HashMap<String, String>> = node
                        .query(cmd("SENTINEL").arg("REPLICAS").arg(MASTER_NAME))
                        .await?;
                    let fit = |replica: &std::collections::HashMap<String, String>| {
                        replica.get("flags").is_some_and(|flags| flags == "slave")
                            && replica
                                .get("master-link-status")
                                .is_some_and(|status| status == "ok")
                    };
                    Ok(
                        if listed.iter().filter(|replica| fit(replica)).count() == replicas {
                            Ok(())
                        } else {
                            Err(format!("{listed:?}"))
                        },
                    )
                })
                .await?;
        }
        Ok(cluster_of(nodes, sentinels, bed, ports))
    }

    fn configuration(&self, port: u16, of: Option<u16>) -> String {
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\nreplica-announce-ip 127.0.0.1\nreplica-announce-port {port}\n\
             save \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-timeout 10\n\
             repl-ping-replica-period 1\n"
        );
        if let Some(master) = of {
            text.push_str(&format!("replicaof 127.0.0.1 {master}\n"));
        }
        for (key, value) in &self.settings {
            text.push_str(&format!("{key} {value}\n"));
        }
        text
    }

    fn sentinel_configuration(&self, master: u16) -> String {
        let quorum = self.sentinels / 2 + 1;
        format!(
            "bind 127.0.0.1\nsentinel announce-ip 127.0.0.1\n\
             sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {MASTER_NAME} 2000\n\
             sentinel failover-timeout {MASTER_NAME} 10000\n\
             sentinel parallel-syncs {MASTER_NAME} 2\n"
        )
    }
}

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The Redis nodes; number 0 was started as the master.
    pub nodes: Vec<Node>,
    /// The Sentinels; none for [`Redis::single`].
    pub sentinels: Vec<Node>,
    bed: Bed,
    _ports: Reservation,
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
            let index = named
                .ok()
                .flatten()
                .and_then(|(_, port)| self.nodes.iter().position(|node| node.port == port));
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
            let role: Result<::redis::Value, _> = self.nodes[index].query(&cmd("ROLE")).await;
            match role {
                Ok(::redis::Value::Array(parts)) => {
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

/// One Redis or one Sentinel.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its loopback port, the same after a restart.
    pub port: u16,
    /// Its process.
    pub process: Process,
}

impl Node {
    fn spawn(
        bed: &Bed,
        program: &Path,
        name: String,
        port: u16,
        configuration: &str,
        mode: Option<&str>,
    ) -> Result<Self, StartError> {
        let dir = bed.make_dir(&name)?;
        // The servers rewrite their configuration when roles change, so it must be theirs.
        let conf = dir.join("redis.conf");
        fs::write(&conf, configuration).map_err(bed.failed(&name, "write the configuration"))?;
        bed.give(&conf)
            .map_err(StartError::io(&name, "hand the configuration over"))?;
        let process = bed.spawn(
            Spec::new(name.clone(), program)
                .arg(conf)
                .args(mode)
                .port(port),
        )?;
        Ok(Self {
            name,
            port,
            process,
        })
    }

    node_controls!();

    /// Its address as `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// One command over a connection of its own, within 2 s.
    ///
    /// # Errors
    ///
    /// When the connection or the command fails.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StartError> {
        self.query(command)
            .await
            .map_err(StartError::redis(&self.name, "run a command"))
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let work = async {
            let client = Client::open(self.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            command.query_async(&mut connection).await
        };
        match tokio::time::timeout(Duration::from_secs(2), work).await {
            Ok(done) => done,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    async fn wait<'a, F, Look>(
        &'a self,
        what: &'static str,
        deadline: Duration,
        look: F,
    ) -> Result<(), StartError>
    where
        F: Fn(&'a Self) -> Look,
        Look: Future<Output = Result<Result<(), String>, RedisError>>,
    {
        self.process
            .wait_until(what, deadline, async || {
                look(self).await.unwrap_or_else(|error| Err(chain(&error)))
            })
            .await
    }

    async fn wait_ready(&self) -> Result<(), StartError> {
        self.wait("answering", STEP, async |node: &Self| {
            // INFO is answered while data is still being loaded.
            let info: String = node.query(cmd("INFO").arg("server")).await?;
            let pid = info
                .lines()
                .find_map(|line| line.strip_prefix("process_id:")?.parse().ok());
            // A stranger on the same port would answer just as well.
            Ok(if pid == node.process.pid() {
                Ok(())
            } else {
                Err(format!("process {pid:?} answers"))
            })
        })
        .await
    }
}
