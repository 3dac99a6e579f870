//! PostgreSQL with automatic failover, by Patroni and etcd.
//!
//! ```no_run
//! use std::time::Duration;
//! use ha_testbed::patroni::Patroni;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let deadline = Duration::from_secs(60);
//! let cluster = Patroni::cluster(3).start().await?;
//! let old = cluster.wait_leader(deadline).await?;
//! cluster.kill_node(old).await?;
//! let new = cluster.wait_leader_other_than(old, deadline).await?;
//! assert_ne!(old, new);
//! cluster.start_node(old).await?; // is rewound and follows
//! cluster.wait_healthy(deadline).await?;
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! | setting | value | why |
//! |---|---|---|
//! | `ttl`, `loop_wait`, `retry_timeout` | 5, 1, 2 s | a dead node is replaced in about six seconds; Patroni 4 refuses a `ttl` below 20 |
//! | `primary_start_timeout` | 0 | a dead postmaster is failed over, not restarted |
//! | `synchronous_mode` | true | no acknowledged commit is lost to a failover, even with two primaries for a moment |
//! | `failsafe_mode` | true | the loss of etcd alone stops no writes |
//! | `use_pg_rewind`, `use_slots`, `wal_log_hints` | on | an old primary comes back as a replica by itself |
//! | `wal_sender_timeout`, `wal_receiver_timeout` | 5 s | a frozen peer is given up |
//! | `wal_retrieve_retry_interval` | 500 ms | replicas find the new primary fast |
//!
//! etcd must still know the v2 API (`--enable-v2`): 3.4 and 3.5 do, 3.6 does not.
//!
//! With no replica left Patroni turns synchronous replication off rather than stop the writes
//! (`synchronous_mode_strict` would stop them): what is acknowledged then is on one node only.
//!
//! There is the superuser `postgres`, and for the service under test the user [`APP`] with a database of the same name.
//! It is no superuser, but may read the replication statistics (`pg_monitor`) and call `pg_read_file`, which on a server
//! reads its own data directory. Everybody on loopback is trusted.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    StartError,
    error::chain,
    parts::{builder_choices, member, postgres_programs, program},
    ports::{Reservation, elsewhere},
    postgres::{Client, SETTINGS},
    process::{Bed, Process, Spec},
    setup::Tool,
    wait,
};

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(120);

/// The user and database of the service under test.
pub const APP: &str = "app";

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Patroni;

impl Patroni {
    /// A cluster with this many PostgreSQL nodes, each under a Patroni of its own, and one etcd.
    pub fn cluster(nodes: usize) -> Builder {
        Builder {
            nodes,
            settings: Vec::new(),
            dir: None,
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    settings: Vec<(String, String)>,
    dir: Option<PathBuf>,
}

impl Builder {
    builder_choices!("postgresql.conf");

    /// Starts everything and returns when the cluster is healthy: see [`Cluster::wait_healthy`].
    ///
    /// # Errors
    ///
    /// When PostgreSQL, Patroni, etcd or Python's etcd module is not installed, or one of them does not start; the message
    /// holds the end of its log.
    ///
    /// # Cancel safety
    ///
    /// What has been started ends when the future is dropped.
    pub async fn start(self) -> Result<Cluster, StartError> {
        elsewhere(async || self.start_once().await).await
    }

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let part = "Patroni";
        let bin = postgres_programs(part)?;
        let (patroni, etcd) = (program(part, Tool::Patroni)?, program(part, Tool::Etcd)?);
        // Without the module Patroni waits for ever instead of failing.
        program(part, Tool::PythonEtcd)?;
        let bed = Bed::choose(self.dir.as_deref())?;
        let ports =
            Reservation::take(2 + 2 * self.nodes).map_err(StartError::io(part, "reserve ports"))?;
        let (etcd_ports, node_ports) = ports.ports().split_at(2);

        let etcd = start_etcd(&bed, etcd, etcd_ports[0], etcd_ports[1]).await?;
        let mut nodes = Vec::new();
        for (i, ports) in node_ports.chunks(2).enumerate() {
            let name = format!("patroni-{i}");
            let dir = bed.make_dir(&name)?;
            let data = dir.join("data");
            let conf = dir.join("patroni.yml");
            // JSON is YAML, and needs no rules for quoting.
            let text = self
                .configuration(&name, &bin, &dir, &data, etcd_ports[0], ports[0], ports[1])
                .to_string();
            fs::write(&conf, text).map_err(StartError::io(&name, "write the configuration"))?;
            bed.give(&conf)
                .map_err(StartError::io(&name, "hand the configuration over"))?;
            let process = bed.spawn(
                Spec::new(name.clone(), &patroni)
                    .arg(conf)
                    .env("PYTHONUNBUFFERED", "1")
                    .port(ports[1]),
            )?;
            nodes.push(Node {
                name,
                port: ports[0],
                rest_port: ports[1],
                process,
                data,
            });
        }
        let cluster = Cluster {
            nodes,
            etcd,
            bed,
            ports,
        };
        tokio::select! {
            ready = cluster.wait_ready() => ready?,
            ended = cluster.any_ended() => return Err(ended),
        }
        Ok(cluster)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "private, called once, every argument another port or path"
    )]
    fn configuration(
        &self,
        name: &str,
        bin: &Path,
        dir: &Path,
        data: &Path,
        etcd: u16,
        port: u16,
        rest_port: u16,
    ) -> Value {
        let own = [("wal_retrieve_retry_interval", "500ms")];
        let mut parameters: Map<String, Value> = own
            .iter()
            .chain(&SETTINGS)
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        parameters.extend(
            self.settings
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into())),
        );
        let user = |name: &str| json!({"username": name, "password": name});
        json!({
            "scope": "ha-testbed",
            "name": name,
            "restapi": {
                "listen": format!("127.0.0.1:{rest_port}"),
                "connect_address": format!("127.0.0.1:{rest_port}"),
            },
            "etcd": {"host": format!("127.0.0.1:{etcd}")},
            "bootstrap": {
                "dcs": {
                    "ttl": 5,
                    "loop_wait": 1,
                    "retry_timeout": 2,
                    "maximum_lag_on_failover": 16 * 1024 * 1024,
                    "primary_start_timeout": 0,
                    "synchronous_mode": true,
                    "failsafe_mode": true,
                    "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": parameters},
                },
                "initdb": [{"encoding": "UTF8"}, "no-locale", "no-sync"],
            },
            "postgresql": {
                "listen": format!("127.0.0.1:{port}"),
                "connect_address": format!("127.0.0.1:{port}"),
                "bin_dir": bin,
                "data_dir": data,
                "pgpass": dir.join("pgpass"),
                "authentication": {
                    "superuser": user("postgres"),
                    "replication": user("replicator"),
                    "rewind": user("rewinder"),
                },
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
                "parameters": parameters,
            },
            "watchdog": {"mode": "off"},
        })
    }
}

async fn start_etcd(
    bed: &Bed,
    program: PathBuf,
    client: u16,
    peer: u16,
) -> Result<Process, StartError> {
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let process = bed.spawn(
        Spec::new("etcd-0", program)
            .args([
                "--name",
                "etcd-0",
                "--data-dir",
                "data",
                "--enable-v2",
                "--log-level",
                "warn",
            ])
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args(["--initial-cluster", &format!("etcd-0={peer_url}")])
            .port(client),
    )?;
    process
        .wait_until("healthy", STEP, async || {
            match get(client, "/health").await {
                Ok((200, body)) if body.contains("true") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    Ok(process)
}

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; any of them may be the leader.
    pub nodes: Vec<Node>,
    /// Where Patroni keeps who leads.
    pub etcd: Process,
    bed: Bed,
    ports: Reservation,
}

impl Cluster {
    /// Where the nodes keep their state and logs.
    pub fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// The address etcd serves clients on.
    pub fn etcd_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.ports()[0]).into()
    }

    /// Waits until the cluster that has just been started is healthy and the service's database is there.
    async fn wait_ready(&self) -> Result<(), StartError> {
        for node in &self.nodes {
            node.wait_answering().await?;
        }
        let leader = self.wait_leader(STEP).await?;
        self.create_app(leader).await?;
        self.wait_healthy(STEP).await
    }

    /// Resolves when a process of it has ended. A Patroni that cannot start its PostgreSQL gives up and ends, and the
    /// others wait for it for ever.
    async fn any_ended(&self) -> StartError {
        loop {
            let nodes = self.nodes.iter().map(|node| &node.process);
            if let Some(error) = nodes.chain([&self.etcd]).find_map(Process::ended) {
                return error;
            }
            tokio::time::sleep(wait::BETWEEN).await;
        }
    }

    /// The node with this number.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&Node, StartError> {
        member(&self.nodes, index)
    }

    /// Kills a node: Patroni, PostgreSQL and all backends, as a loss of power would.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub async fn kill_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.kill().await
    }

    /// Kills a node's PostgreSQL and leaves its Patroni, which notices.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub async fn kill_postgres(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        let postmaster = fs::read_to_string(node.data.join("postmaster.pid"))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse().ok());
        node.process
            .kill_inside(node.data.clone(), postmaster)
            .await
    }

    /// Kills a node's Patroni and leaves its PostgreSQL, which goes on taking writes although another node will be made
    /// the primary: the case that loses writes without synchronous replication.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub fn kill_patroni(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.kill_alone()
    }

    /// Stops a node: the clients' backends first, then PostgreSQL, then Patroni.
    ///
    /// # Errors
    ///
    /// See [`Process::freeze`].
    pub fn freeze_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.freeze()
    }

    /// Lets a node go on.
    ///
    /// # Errors
    ///
    /// See [`Process::thaw`].
    pub fn thaw_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.thaw()
    }

    /// Starts a node's Patroni after a kill, which brings its PostgreSQL back; returns when Patroni answers. Wait for the
    /// cluster with [`wait_healthy`](Self::wait_healthy).
    ///
    /// # Errors
    ///
    /// When Patroni does not answer in two minutes.
    pub async fn start_node(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.process.start()?;
        node.wait_answering().await
    }

    /// The node that calls itself the leader, the one with the newest history when two do. Nothing when none does.
    pub async fn leader(&self) -> Option<usize> {
        let asked = self.nodes.iter().enumerate().map(async |(index, node)| {
            let (status, body) = node.get("/primary").await.ok()?;
            let body: Value = serde_json::from_str(&body).ok()?;
            (status == 200).then(|| (body["timeline"].as_u64().unwrap_or(0), index))
        });
        join_all(asked)
            .await
            .into_iter()
            .flatten()
            .max()
            .map(|(_, index)| index)
    }

    /// Waits for a leader that takes writes.
    ///
    /// # Errors
    ///
    /// When there is none in time.
    pub async fn wait_leader(&self, deadline: Duration) -> Result<usize, StartError> {
        self.find_leader(None, deadline).await
    }

    /// Waits until another node than `old` is the leader: after a failover, that is.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_leader_other_than(
        &self,
        old: usize,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        self.find_leader(Some(old), deadline).await
    }

    async fn find_leader(
        &self,
        not: Option<usize>,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        let what = if not.is_some() { "failed over" } else { "led" };
        self.wait(what, deadline, async || match self.leader().await {
            Some(index) if Some(index) == not => {
                Err(format!("{} still leads", self.nodes[index].name))
            }
            Some(index) => {
                let client = self.nodes[index]
                    .client()
                    .await
                    .map_err(|error| chain(&error))?;
                let row = client
                    .query_one("select pg_is_in_recovery()", &[])
                    .await
                    .map_err(|error| chain(&error))?;
                if row.get(0) {
                    Err(format!("{} is still a replica", self.nodes[index].name))
                } else {
                    Ok(index)
                }
            }
            None => Err("nobody leads".to_owned()),
        })
        .await
    }

    /// Waits until all nodes are there, one leads, all others stream from it, one of them synchronously.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_healthy(&self, deadline: Duration) -> Result<(), StartError> {
        let replicas = self.nodes.len().saturating_sub(1);
        self.wait("healthy", deadline, async || {
            let leader = self.leader().await.ok_or("nobody leads")?;
            let client = self.nodes[leader].client().await.map_err(|error| chain(&error))?;
            let row = client
                .query_one(
                    // The sender of a connection that a replica has given up stays for seconds, beside its new one.
                    "select count(distinct application_name) filter (where state = 'streaming'), \
                     count(*) filter (where sync_state in ('sync', 'quorum')), \
                     coalesce(string_agg(concat_ws(' ', application_name, state, sync_state), ', '), 'no replica') \
                     from pg_stat_replication",
                    &[],
                )
                .await
                .map_err(|error| chain(&error))?;
            let (streaming, synchronous): (i64, i64) = (row.get(0), row.get(1));
            if usize::try_from(streaming) != Ok(replicas) || (replicas > 0 && synchronous == 0) {
                return Err(format!("{} leads {}", self.nodes[leader].name, row.get::<_, String>(2)));
            }
            // Patroni commits a new synchronous standby to etcd before it counts for a failover.
            let (_, body) = self.nodes[leader].get("/cluster").await.map_err(|error| error.to_string())?;
            let known: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let members = known["members"].as_array().map_or(&[][..], Vec::as_slice);
            let synchronous = members.iter().any(|member| member["role"] == "sync_standby");
            if members.len() == self.nodes.len() && (synchronous || replicas == 0) { Ok(()) } else { Err(body) }
        })
        .await
    }

    async fn wait<T, F, Look>(
        &self,
        what: &'static str,
        deadline: Duration,
        look: F,
    ) -> Result<T, StartError>
    where
        F: FnMut() -> Look,
        Look: Future<Output = Result<T, String>>,
    {
        let waited = wait::until(deadline, Duration::from_millis(50), look).await;
        waited.map_err(|last| StartError::Deadline {
            part: "Patroni".to_owned(),
            port: None,
            what,
            after: deadline,
            last,
            log: self.logs(),
        })
    }

    fn logs(&self) -> String {
        let log = |node: &Node| format!("--- {}\n{}", node.name, node.process.log_tail(8));
        self.nodes.iter().map(log).collect::<Vec<_>>().join("\n")
    }

    async fn create_app(&self, leader: usize) -> Result<(), StartError> {
        let node = self.node(leader)?;
        let failed = || StartError::postgres(&node.name, "create the service's user and database");
        let client = node.client().await?;
        for statement in [
            format!("create role {APP} login password '{APP}'"),
            format!("grant pg_monitor to {APP}"),
            format!("create database {APP} owner {APP}"),
        ] {
            client.batch_execute(&statement).await.map_err(failed())?;
        }
        // Who may call a function is kept per database.
        let client = Client::connect(&node.name, &node.conninfo_for("postgres", APP)).await?;
        let grant = format!(
            "do $$ declare f regprocedure; begin \
             for f in select oid::regprocedure from pg_proc where proname = 'pg_read_file' \
             loop execute format('grant execute on function %s to {APP}', f); end loop; end $$"
        );
        client.batch_execute(&grant).await.map_err(failed())
    }
}

/// One PostgreSQL under one Patroni.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name, also Patroni's for it.
    pub name: String,
    /// PostgreSQL's loopback port, the same after a restart.
    pub port: u16,
    /// The loopback port of Patroni's REST API.
    pub rest_port: u16,
    /// Patroni, with PostgreSQL among its helpers.
    pub process: Process,
    data: PathBuf,
}

impl Node {
    /// PostgreSQL's address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The address of Patroni's REST API.
    pub fn rest_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.rest_port).into()
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A connection string for the superuser and the database `postgres`.
    pub fn conninfo(&self) -> String {
        self.conninfo_for("postgres", "postgres")
    }

    /// A connection string for the service's user and database.
    pub fn app_conninfo(&self) -> String {
        self.conninfo_for(APP, APP)
    }

    fn conninfo_for(&self, user: &str, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={user} dbname={database} connect_timeout=5",
            self.port
        )
    }

    /// A connection of the superuser.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn client(&self) -> Result<Client, StartError> {
        Client::connect(&self.name, &self.conninfo()).await
    }

    /// Status and body of a `GET` to Patroni's REST API.
    async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(self.rest_port, path).await
    }

    async fn wait_answering(&self) -> Result<(), StartError> {
        self.process
            .wait_until("answering", STEP, async || {
                self.get("/liveness")
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .await
    }
}

/// A `GET` in HTTP/1.0: the server closes the connection at the end of the body.
async fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let work = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
            .await?;
        let mut bytes = Vec::new();
        stream.take(1024 * 1024).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), work)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}
