//! PostgreSQL with streaming replication.
//!
//! [`Postgres::primary`] starts a primary and its replicas, each a `postgres` process of its own on a loopback port.
//! Nobody watches over them: a test kills, promotes and re-points nodes itself, in exactly the order it wants. For
//! automatic failover see [`patroni`](crate::patroni).
//!
//! ```no_run
//! use ha_testbed::postgres::Postgres;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Postgres::primary().replicas(2).start().await?;
//! cluster.pause_replay(1).await?; // node 1 receives, but no longer shows, what is written
//! let seen = cluster.nodes[1].client().await?.query_one("select pg_is_in_recovery()", &[]).await?;
//! assert!(seen.get::<_, bool>(0));
//! # Ok(()) }
//! ```
//!
//! # How it is set up
//!
//! - Superuser `postgres`, trusted from loopback; no Unix socket.
//! - A physical replication slot per replica, `wal_log_hints` (so that `pg_rewind` works), hot standby feedback.
//! - `fsync = off`: `SIGKILL` does not lose what the kernel has taken, and a bed starts several times faster. Ask for
//!   [`setting("fsync", "on")`](Builder::setting) where the disk's own speed matters.
//! - Replication gives up on a silent peer after 5 s and tries again every 100 ms; PostgreSQL's own 60 s and 5 s make
//!   for slow tests.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::try_join_all;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::{
    StartError,
    ports::{Reservation, elsewhere},
    process::{Bed, Process, Spec, run},
    setup::{self, Tool},
};

/// How long one step of a start may take on a machine that is busy with other tests.
const STEP: Duration = Duration::from_secs(60);

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Postgres;

impl Postgres {
    /// A primary, to begin with without replicas.
    pub fn primary() -> Builder {
        Builder {
            replicas: 0,
            synchronous: false,
            settings: Vec::new(),
            dir: None,
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    synchronous: bool,
    settings: Vec<(String, String)>,
    dir: Option<PathBuf>,
}

impl Builder {
    /// How many replicas stream from the primary. Default: none.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Whether a commit waits until any one replica has it on disk (`synchronous_standby_names = 'ANY 1 (*)'`).
    /// Default: no.
    #[must_use]
    pub fn synchronous(mut self, synchronous: bool) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// A setting of `postgresql.conf`, on all nodes; wins over the bed's own.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Keeps the state in `dir`, which stays afterwards; see [`Bed::at`].
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Starts the nodes and returns when every replica streams.
    ///
    /// # Errors
    ///
    /// When PostgreSQL is not installed or does not start; the message holds the end of its log.
    ///
    /// # Cancel safety
    ///
    /// What has been started ends when the future is dropped.
    pub async fn start(self) -> Result<Cluster, StartError> {
        elsewhere(async || self.start_once().await).await
    }

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let bin = binaries("PostgreSQL")?;
        let bed = Bed::choose(self.dir.as_deref())?;
        let ports = Reservation::take(self.replicas + 1)
            .map_err(StartError::io("PostgreSQL", "reserve ports"))?;

        let primary = Layout::new(&bed, 0, ports.ports()[0])?;
        initdb(&bed, &bin, &primary).await?;
        let conf = primary.data.join("postgresql.conf");
        let text = fs::read_to_string(&conf)
            .map_err(StartError::io(&primary.name, "read the configuration"))?;
        fs::write(&conf, text + &self.configuration())
            .map_err(StartError::io(&primary.name, "write the configuration"))?;
        let primary = primary.start(&bed, &bin).await?;

        let replicas = (1..=self.replicas).map(|i| {
            let (bed, bin, primary) = (&bed, &bin, &primary);
            let port = ports.ports()[i];
            async move {
                let layout = Layout::new(bed, i, port)?;
                let source = format!("{} application_name={}", primary.replication(), layout.name);
                let spec = Spec::new(
                    format!("{}-basebackup", layout.name),
                    bin.join("pg_basebackup"),
                )
                .args([
                    "--write-recovery-conf",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    "--no-sync",
                ])
                .args([
                    "--create-slot",
                    "--slot",
                    &slot(&layout.name),
                    "--dbname",
                    &source,
                    "--pgdata",
                ])
                .arg(&layout.data);
                run(bed, spec, &layout.dir, STEP).await?;
                layout.start(bed, bin).await
            }
        });
        let replicas = try_join_all(replicas).await?;
        let mut nodes = vec![primary];
        nodes.extend(replicas);
        let cluster = Cluster {
            nodes,
            bin,
            bed,
            _ports: ports,
        };
        cluster.wait_streaming(0, self.replicas, STEP).await?;
        if self.synchronous {
            let client = cluster.nodes[0].client().await?;
            for statement in [
                "alter system set synchronous_standby_names = 'ANY 1 (*)'",
                "select pg_reload_conf()",
            ] {
                client
                    .batch_execute(statement)
                    .await
                    .map_err(StartError::postgres("postgres-0", "make it synchronous"))?;
            }
            cluster.wait_query(0, "synchronous", "select count(*) > 0 from pg_stat_replication where sync_state in ('quorum', 'sync')", STEP).await?;
        }
        Ok(cluster)
    }

    fn configuration(&self) -> String {
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            // Files in the data directory instead of /dev/shm, where a killed server's would stay for ever.
            ("dynamic_shared_memory_type", "mmap"),
            ("shared_buffers", "32MB"),
            ("max_connections", "200"),
            ("fsync", "off"),
            ("wal_level", "replica"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("wal_keep_size", "256MB"),
            ("wal_log_hints", "on"),
            ("hot_standby", "on"),
            ("hot_standby_feedback", "on"),
            ("wal_sender_timeout", "5s"),
            ("wal_receiver_timeout", "5s"),
            ("wal_retrieve_retry_interval", "100ms"),
            ("wal_receiver_status_interval", "1s"),
            ("log_line_prefix", "%m [%p] "),
        ];
        let own = own
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut text = "\n# The test bed's own.\n".to_owned();
        for (key, value) in own.chain(self.settings.iter().cloned()) {
            text.push_str(&format!("{key} = '{}'\n", value.replace('\'', "''")));
        }
        text
    }
}

/// The directory PostgreSQL's programs are in.
pub(crate) fn binaries(part: &str) -> Result<PathBuf, StartError> {
    program(part, Tool::Postgres).and_then(|postgres| {
        let bin = postgres.parent().map(Path::to_owned);
        bin.ok_or_else(|| missing(part, Tool::Postgres))
    })
}

pub(crate) fn program(part: &str, tool: Tool) -> Result<PathBuf, StartError> {
    setup::find(tool).ok_or_else(|| missing(part, tool))
}

fn missing(part: &str, tool: Tool) -> StartError {
    StartError::MissingBinary {
        part: part.to_owned(),
        tool,
        install: setup::install_command(&[tool]),
    }
}

/// Slot names may hold no dash.
fn slot(name: &str) -> String {
    name.replace('-', "_")
}

/// Where a node lives before it runs.
struct Layout {
    name: String,
    port: u16,
    dir: PathBuf,
    data: PathBuf,
}

impl Layout {
    fn new(bed: &Bed, index: usize, port: u16) -> Result<Self, StartError> {
        let name = format!("postgres-{index}");
        let dir = bed.make_dir(&name)?;
        let data = dir.join("data");
        Ok(Self {
            name,
            port,
            dir,
            data,
        })
    }

    async fn start(self, bed: &Bed, bin: &Path) -> Result<Node, StartError> {
        let spec = Spec::new(self.name.clone(), bin.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.to_string()]);
        let process = bed.spawn(spec)?;
        let node = Node {
            name: self.name,
            port: self.port,
            process,
            data: self.data,
        };
        node.wait_ready(STEP).await?;
        Ok(node)
    }
}

async fn initdb(bed: &Bed, bin: &Path, layout: &Layout) -> Result<(), StartError> {
    let spec = Spec::new(format!("{}-initdb", layout.name), bin.join("initdb"))
        .args([
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--pgdata",
        ])
        .arg(&layout.data);
    run(bed, spec, &layout.dir, STEP).await
}

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; number 0 was started as the primary.
    pub nodes: Vec<Node>,
    bin: PathBuf,
    bed: Bed,
    _ports: Reservation,
}

impl Cluster {
    /// Where the nodes keep their state and logs.
    pub fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// The connection strings of all nodes, in order.
    pub fn conninfos(&self) -> Vec<String> {
        self.nodes.iter().map(Node::conninfo).collect()
    }

    /// The node with this number.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&Node, StartError> {
        let count = self.nodes.len();
        self.nodes.get(index).ok_or(StartError::NoSuchPart {
            kind: "node",
            index,
            count,
        })
    }

    /// Makes a replica a primary and returns when it takes writes. Nothing happens to the old primary: whoever wants
    /// it gone kills it first.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, is no replica, or does not become a primary in a minute.
    ///
    /// # Cancel safety
    ///
    /// The promotion may go on when the future is dropped.
    pub async fn promote(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.execute("promote it", "select pg_promote(true, 60)")
            .await?;
        self.wait_query(index, "a primary", "select not pg_is_in_recovery()", STEP)
            .await
    }

    /// Stops a replica from showing what it receives; it goes on receiving.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or is no replica.
    pub async fn pause_replay(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?
            .execute("pause replay", "select pg_wal_replay_pause()")
            .await?;
        // The request alone is answered at once; until the state changes more may still become visible.
        self.wait_query(
            index,
            "paused",
            "select pg_get_wal_replay_pause_state() = 'paused'",
            STEP,
        )
        .await
    }

    /// Lets a replica show what it received.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or is no replica.
    pub async fn resume_replay(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?
            .execute("resume replay", "select pg_wal_replay_resume()")
            .await
    }

    /// Makes a node stream from another one, which must be a primary, and returns when it does.
    ///
    /// A running replica is re-pointed. Anything else, an old primary above all, is killed, rewound to where the two
    /// histories part, and started as a replica: what only it had is lost.
    ///
    /// # Errors
    ///
    /// When one of the two cannot be reached, `pg_rewind` fails, or it does not stream in a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future can leave the node dead or not streaming; calling it again repairs that.
    pub async fn follow(&self, index: usize, primary: usize) -> Result<(), StartError> {
        let (node, source) = (self.node(index)?, self.node(primary)?);
        let slot = slot(&node.name);
        let create = format!(
            "select pg_create_physical_replication_slot('{slot}') \
             where not exists (select from pg_replication_slots where slot_name = '{slot}')"
        );
        source.execute("create a replication slot", &create).await?;
        let conninfo = format!("{} application_name={}", source.replication(), node.name);
        if node.process.is_running() && node.is_replica().await.unwrap_or(false) {
            for statement in [
                format!("alter system set primary_conninfo = '{conninfo}'"),
                format!("alter system set primary_slot_name = '{slot}'"),
                "select pg_reload_conf()".to_owned(),
            ] {
                node.execute("re-point it", &statement).await?;
            }
        } else {
            node.kill().await?;
            let signal = node.data.join("standby.signal");
            // pg_rewind first finishes the crash recovery, in a mode that refuses to be a standby.
            if signal.exists() {
                fs::remove_file(&signal)
                    .map_err(StartError::io(&node.name, "prepare its rewind"))?;
            }
            // pg_rewind compares with the source's control file, which still shows the time before its promotion
            // until a checkpoint has been made.
            source.execute("make a checkpoint", "checkpoint").await?;
            let spec = Spec::new(format!("{}-rewind", node.name), self.bin.join("pg_rewind"))
                .args([
                    "--no-sync",
                    "--source-server",
                    &source.conninfo(),
                    "--target-pgdata",
                ])
                .arg(&node.data);
            run(&self.bed, spec, node.process.dir(), STEP).await?;
            let auto = node.data.join("postgresql.auto.conf");
            let failed = |what| StartError::io(&node.name, what);
            let mut text = fs::read_to_string(&auto).map_err(failed("read the configuration"))?;
            text.push_str(&format!(
                "primary_conninfo = '{conninfo}'\nprimary_slot_name = '{slot}'\n"
            ));
            fs::write(&auto, text).map_err(failed("write the configuration"))?;
            fs::write(&signal, "").map_err(failed("mark it as a replica"))?;
            fs::set_permissions(&signal, fs::Permissions::from_mode(0o600))
                .map_err(failed("mark it as a replica"))?;
            self.bed
                .give(&signal)
                .map_err(failed("mark it as a replica"))?;
            node.start().await?;
        }
        let streams = format!(
            "select count(*) = 1 from pg_stat_replication where state = 'streaming' and application_name = '{}'",
            node.name
        );
        self.wait_query(primary, "streaming to the other node", &streams, STEP)
            .await
    }

    /// Returns when every running replica of `primary` shows what is on the primary now.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn wait_caught_up(
        &self,
        primary: usize,
        deadline: Duration,
    ) -> Result<(), StartError> {
        self.wait_position(primary, "caught up", "replay_lsn", deadline)
            .await
    }

    /// Returns when every running replica of `primary` has received and written what is on the primary now, shown or
    /// not.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn wait_flushed(&self, primary: usize, deadline: Duration) -> Result<(), StartError> {
        self.wait_position(primary, "received", "flush_lsn", deadline)
            .await
    }

    async fn wait_position(
        &self,
        primary: usize,
        what: &'static str,
        column: &str,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let node = self.node(primary)?;
        let client = node.client().await?;
        // Not the flushed position: what was committed asynchronously is seen on the primary too.
        let asked = client
            .query_one("select pg_current_wal_insert_lsn()::text", &[])
            .await;
        let row = asked.map_err(StartError::postgres(&node.name, "read the position"))?;
        let lsn: String = row.get(0);
        let reached =
            format!("select application_name from pg_stat_replication where {column} >= '{lsn}'");
        node.process
            .wait_until(what, deadline, async || {
                // A replica that is just connecting again is not in the view, and must not count as in step.
                let expected = self
                    .replicas_of(primary)
                    .await
                    .map_err(|error| chain(&error))?;
                let rows = client
                    .query(&reached, &[])
                    .await
                    .map_err(|error| chain(&error))?;
                let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                let behind: Vec<_> = expected
                    .into_iter()
                    .filter(|name| !there.iter().any(|there| there == name))
                    .collect();
                if behind.is_empty() {
                    Ok(())
                } else {
                    Err(format!("behind: {}", behind.join(", ")))
                }
            })
            .await
    }

    /// The running nodes that are set up to stream from `primary`.
    async fn replicas_of(&self, primary: usize) -> Result<Vec<&str>, StartError> {
        let from = format!("port={}", self.node(primary)?.port);
        let mut names = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_running()) {
            let client = node.client().await?;
            let query = "select pg_is_in_recovery(), current_setting('primary_conninfo')";
            let asked = client.query_one(query, &[]).await;
            let row = asked.map_err(StartError::postgres(&node.name, "ask what it follows"))?;
            let conninfo: String = row.get(1);
            if row.get(0) && conninfo.split(' ').any(|word| word == from) {
                names.push(node.name.as_str());
            }
        }
        Ok(names)
    }

    /// Returns when `count` replicas stream from `primary`.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_streaming(
        &self,
        primary: usize,
        count: usize,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let streaming = format!(
            "select count(*) >= {count} from pg_stat_replication where state = 'streaming'"
        );
        self.wait_query(primary, "streaming to its replicas", &streaming, deadline)
            .await
    }

    /// Asks a node until it answers "true".
    async fn wait_query(
        &self,
        index: usize,
        what: &'static str,
        query: &str,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.process
            .wait_until(what, deadline, async || {
                let client = node.client().await.map_err(|error| chain(&error))?;
                let row = client
                    .query_one(query, &[])
                    .await
                    .map_err(|error| chain(&error))?;
                if row.get(0) {
                    Ok(())
                } else {
                    Err(format!("false: {query}"))
                }
            })
            .await
    }
}

/// An error with all it was caused by, for the "last seen" of a deadline.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// One PostgreSQL server.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name, also in the primary's `pg_stat_replication.application_name`.
    pub name: String,
    /// Its loopback port, the same after a restart.
    pub port: u16,
    /// Its postmaster and all backends.
    pub process: Process,
    data: PathBuf,
}

impl Node {
    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A connection string for the superuser and the database `postgres`.
    pub fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=5",
            self.port
        )
    }

    fn replication(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A connection of its own.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn client(&self) -> Result<Client, StartError> {
        Client::connect(&self.name, &self.conninfo()).await
    }

    /// Whether it is in recovery, that is, a replica.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub async fn is_replica(&self) -> Result<bool, StartError> {
        let client = self.client().await?;
        let asked = client.query_one("select pg_is_in_recovery()", &[]).await;
        Ok(asked
            .map_err(StartError::postgres(&self.name, "ask for its role"))?
            .get(0))
    }

    /// Kills the postmaster and all backends, as a loss of power would.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub async fn kill(&self) -> Result<(), StartError> {
        self.process.kill().await
    }

    /// Stops all of it, the backends first; connections stay open and get no answers.
    ///
    /// # Errors
    ///
    /// See [`Process::freeze`].
    pub fn freeze(&self) -> Result<(), StartError> {
        self.process.freeze()
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// See [`Process::thaw`].
    pub fn thaw(&self) -> Result<(), StartError> {
        self.process.thaw()
    }

    /// Starts it after a kill, in the role its files say, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it does not answer in a minute.
    pub async fn start(&self) -> Result<(), StartError> {
        self.process.start()?;
        self.wait_ready(STEP).await
    }

    /// Kills it and starts it again.
    ///
    /// # Errors
    ///
    /// See [`kill`](Self::kill) and [`start`](Self::start).
    pub async fn restart(&self) -> Result<(), StartError> {
        self.kill().await?;
        self.start().await
    }

    async fn wait_ready(&self, deadline: Duration) -> Result<(), StartError> {
        let ready = self
            .process
            .wait_until("accepting connections", deadline, async || {
                let client = self.client().await.map_err(|error| chain(&error))?;
                let asked = client
                    .query_one("select current_setting('data_directory')", &[])
                    .await;
                let data: String = asked.map_err(|error| chain(&error))?.get(0);
                // A stranger on the same port would answer just as well.
                if Path::new(&data) == self.data {
                    Ok(())
                } else {
                    Err(format!("the server of {data} answers"))
                }
            })
            .await;
        match ready {
            Err(StartError::Exited { .. }) => Err(self.process.failure(Some(self.port))),
            other => other,
        }
    }

    async fn execute(&self, what: &'static str, statement: &str) -> Result<(), StartError> {
        let client = self.client().await?;
        client
            .batch_execute(statement)
            .await
            .map_err(StartError::postgres(&self.name, what))
    }
}

/// A connection that owns the task which drives it.
#[derive(Debug)]
pub struct Client {
    client: tokio_postgres::Client,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects with a connection string of your own.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn connect(part: &str, conninfo: &str) -> Result<Self, StartError> {
        let deadline = Duration::from_secs(5);
        let connecting = tokio_postgres::connect(conninfo, NoTls);
        let Ok(connected) = tokio::time::timeout(deadline, connecting).await else {
            return Err(StartError::Deadline {
                part: part.to_owned(),
                what: "connected",
                after: deadline,
                last: "no answer".to_owned(),
                log: String::new(),
            });
        };
        let (client, connection) = connected.map_err(StartError::postgres(part, "connect"))?;
        // A broken connection shows in the client's next statement; nothing is lost by not looking here.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, task })
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl std::ops::DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.client
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}
