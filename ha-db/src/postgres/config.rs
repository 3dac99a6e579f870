//! The router's settings.

use std::sync::Arc;
use std::time::Duration;

use ha_core::budget;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::event::{Event, Listeners};
use super::router::Router;
use crate::routing::read::MAX_NODES;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// A setting was refused. Names the setting and the value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No node was given.
    #[error("no node: at least one is needed")]
    NoNode,
    /// Two nodes have the same name.
    #[error("node {name:?} is given twice")]
    DuplicateNode {
        /// The name.
        name: String,
    },
    /// A node's name is empty.
    #[error("a node has an empty name")]
    EmptyNode,
    /// A node's connection string cannot be read.
    #[error("connection string of node {name:?} is not valid")]
    Conninfo {
        /// The node.
        name: String,
        /// What is wrong with it.
        source: tokio_postgres::Error,
    },
    /// A node's connection string names no host, or several: a node is one server.
    #[error("connection string of node {name:?} names {hosts} hosts, a node is exactly one")]
    Hosts {
        /// The node.
        name: String,
        /// How many.
        hosts: usize,
    },
    /// A duration must not be zero.
    #[error("{name} is {value:?}, it must be more than zero")]
    Zero {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: Duration,
    },
    /// A number must not be zero.
    #[error("{name} is 0, it must be at least 1")]
    ZeroCount {
        /// The setting.
        name: &'static str,
    },
    /// Two settings contradict each other.
    #[error("{name} is {value:?}, it must be at least {other} which is {other_value:?}")]
    Inverted {
        /// The setting that is too small.
        name: &'static str,
        /// Its value.
        value: Duration,
        /// The setting it is compared with.
        other: &'static str,
        /// That one's value.
        other_value: Duration,
    },
    /// A node wants TLS, and no [`Builder::tls`] says whom to trust.
    #[error("node {name:?} has sslmode=require, and no TLS was given to the builder")]
    NoTls {
        /// The node.
        name: String,
    },
    /// A node's connection string says which role its server must have. Roles are found out, and a standby would count as unreachable.
    #[error("connection string of node {name:?} has target_session_attrs, roles are found out")]
    SessionAttrs {
        /// The node.
        name: String,
    },
    /// A setting of a part was refused.
    #[error(transparent)]
    Part(#[from] ha_core::config::ConfigError),
    /// There is no node of this name.
    #[error("there is no node {name:?}")]
    UnknownNode {
        /// The name.
        name: String,
    },
    /// More nodes than a router handles.
    #[error("more than {limit} nodes")]
    TooManyNodes {
        /// How many it handles.
        limit: usize,
    },
    /// There is no tokio runtime to run the probes on.
    #[error("build() was called outside a tokio runtime")]
    NoRuntime,
}

/// Every number that the router uses.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) max_lag: Duration,
    pub(crate) readmit_after: u32,
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) pool_size: usize,
    /// Of a node that is not the primary, if it differs.
    pub(crate) replica_pool_size: Option<usize>,
    /// Connections to a new primary that are made before they are asked for.
    pub(crate) warm: usize,
    pub(crate) retry_budget: budget::Config,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    pub(crate) pool_wait: Duration,
    pub(crate) write_wait: Duration,
    pub(crate) replica_wait: Duration,
    pub(crate) commit_timeout: Duration,
    pub(crate) cut_after: Duration,
    pub(crate) fallback_reads: Option<usize>,
    pub(crate) system_id: Option<u64>,
    pub(crate) local: Option<String>,
}

/// A node as it was given.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    pub(crate) postgres: tokio_postgres::Config,
    pub(crate) locality: Option<String>,
}

impl NodeConfig {
    pub(crate) fn new(
        name: String,
        server: &Server,
        locality: Option<String>,
        settings: &Settings,
    ) -> Result<Self, ConfigError> {
        if name.is_empty() {
            return Err(ConfigError::EmptyNode);
        }
        let mut postgres: tokio_postgres::Config = match server {
            Server::Conninfo(text) => match text.parse() {
                Ok(postgres) => postgres,
                Err(source) => return Err(ConfigError::Conninfo { name, source }),
            },
            Server::Config(config) => (**config).clone(),
        };
        let hosts = postgres
            .get_hosts()
            .len()
            .max(postgres.get_hostaddrs().len());
        if hosts != 1 {
            return Err(ConfigError::Hosts { name, hosts });
        }
        if postgres.get_target_session_attrs() != TargetSessionAttrs::Any {
            return Err(ConfigError::SessionAttrs { name });
        }
        #[cfg(feature = "tls")]
        let tls = settings.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let tls = {
            let _ = settings;
            false
        };
        match postgres.get_ssl_mode() {
            SslMode::Disable => {}
            _ if tls => {
                postgres.ssl_mode(SslMode::Require);
            }
            SslMode::Require => return Err(ConfigError::NoTls { name }),
            _ => {}
        }
        if postgres.get_application_name().is_none() {
            postgres.application_name("ha-db");
        }
        Ok(Self {
            name,
            postgres,
            locality,
        })
    }
}

/// Builds a [`Router`]. See each method for its default and the reason for it.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) nodes: Vec<(String, Server)>,
    localities: Vec<(String, String)>,
    listeners: Listeners,
    pub(crate) settings: Settings,
}

/// Where a node is.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    Conninfo(String),
    Config(Box<tokio_postgres::Config>),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            localities: Vec::new(),
            listeners: Listeners::default(),
            settings: Settings {
                max_lag: Duration::from_millis(500),
                readmit_after: 3,
                probe_interval: Duration::from_millis(100),
                probe_timeout: Duration::from_millis(500),
                connect_timeout: Duration::from_secs(1),
                pool_size: 16,
                replica_pool_size: None,
                warm: 4,
                retry_budget: budget::Config::default(),
                #[cfg(feature = "tls")]
                tls: None,
                pool_wait: Duration::from_secs(1),
                write_wait: Duration::from_secs(2),
                replica_wait: Duration::from_millis(50),
                commit_timeout: Duration::from_secs(10),
                cut_after: Duration::from_secs(3),
                fallback_reads: None,
                system_id: None,
                local: None,
            },
        }
    }
}

impl Builder {
    /// Adds a node: a name for logs and status, and a connection string in libpq's form (`host=… port=… user=…
    /// dbname=…`, or a `postgresql://` URL) that names exactly one host. Give every member of the cluster, whatever
    /// its role: roles are found out and followed.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>, conninfo: impl Into<String>) -> Self {
        self.nodes
            .push((name.into(), Server::Conninfo(conninfo.into())));
        self
    }

    /// Adds a node by a value instead of a text: everything that [`tokio_postgres::Config`] knows is used, such as a password
    /// from a secret store, keepalives or `options`. It must name exactly one host.
    #[must_use]
    pub fn node_config(mut self, name: impl Into<String>, config: tokio_postgres::Config) -> Self {
        self.nodes
            .push((name.into(), Server::Config(Box::new(config))));
        self
    }

    /// Connects over TLS; a node's certificate has to be made out for its `host`, and `hostaddr` says where that is. A node whose `sslmode` is `prefer`, which is the default, then counts as `require`: preferring
    /// would let anybody on the way say that there is none. `sslmode=disable` leaves a node without.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Where a node stands: a region, a zone, a rack, whatever costs when it is crossed. Default: nowhere in particular.
    #[must_use]
    pub fn locality(mut self, node: impl Into<String>, place: impl Into<String>) -> Self {
        self.localities.push((node.into(), place.into()));
        self
    }

    /// Where this process stands. Reads prefer replicas of the same locality, and go elsewhere when none of them will do or all
    /// their connections are in use. Default: nowhere, and all replicas are alike.
    #[must_use]
    pub fn local(mut self, place: impl Into<String>) -> Self {
        self.settings.local = Some(place.into());
        self
    }

    /// Calls `listener` with every change, in order, after it has taken effect. It runs on the task of a probe: let it be quick,
    /// and hand work on; up to 1,024 events wait for it, and those beyond are counted in [`Event::Missed`].
    ///
    /// ```no_run
    /// use ha_db::postgres::{Event, Router};
    ///
    /// # async fn run() -> Result<(), ha_db::postgres::ConfigError> {
    /// let router = Router::builder()
    ///     .node("a", "host=10.0.0.1 dbname=app user=app")
    ///     .node("b", "host=10.0.0.2 dbname=app user=app")
    ///     .locality("a", "eu-1")
    ///     .locality("b", "eu-2")
    ///     .local("eu-2")
    ///     .on_event(|event| {
    ///         if let Event::ProblemFound { node, problem } = event {
    ///             eprintln!("{node}: {problem}. {}", problem.remedy());
    ///         }
    ///     })
    ///     .build()?;
    /// router.add_node("c", "host=10.0.0.3 dbname=app user=app", Some("eu-2"))?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listeners.0.push(Arc::new(listener));
        self
    }

    /// A replica further behind than this gets no reads unless it proves a client's token; it is readmitted below
    /// half of it. Default 500 ms: five probes, so that one slow probe ejects nobody.
    #[must_use]
    pub fn max_lag(mut self, lag: Duration) -> Self {
        self.settings.max_lag = lag;
        self
    }

    /// Probes in a row below half of `max_lag` that readmit an ejected replica. Default 3.
    #[must_use]
    pub fn readmit_after(mut self, probes: u32) -> Self {
        self.settings.readmit_after = probes;
        self
    }

    /// Time between probes of one node. Default 100 ms: one round trip of a few dozen microseconds' work, and a
    /// promotion is seen within it.
    #[must_use]
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.settings.probe_interval = interval;
        self
    }

    /// How long a probe may take before the node counts as unreachable. Default 500 ms. A frozen node is noticed
    /// within `probe_interval + probe_timeout`.
    #[must_use]
    pub fn probe_timeout(mut self, limit: Duration) -> Self {
        self.settings.probe_timeout = limit;
        self
    }

    /// How long connecting and signing in may take, for probes and pools. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.settings.connect_timeout = limit;
        self
    }

    /// Connections per node, the probe's own excluded. Default 16. A pool changes its size with its node's role.
    #[must_use]
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.settings.pool_size = connections;
        self
    }

    /// Connections per node that is not the primary. Default: `pool_size`. With `n` replicas each of them takes an `n`-th of the
    /// reads, while the primary alone takes the writes.
    #[must_use]
    pub fn replica_pool_size(mut self, connections: usize) -> Self {
        self.settings.replica_pool_size = Some(connections);
        self
    }

    /// Connections to a new primary that are made at once, one after the other, before anybody asks for them; never more than
    /// `pool_size`. When the primary is lost, the same to each of the replicas of whom one will follow it, and as many as there are
    /// requests that wait for that, up to `replica_pool_size`. Default 4: as many as may be made at the same time. 0 makes none.
    #[must_use]
    pub fn warm_connections(mut self, connections: usize) -> Self {
        self.settings.warm = connections;
        self
    }

    /// Bounds what [`Db::run`](super::Db::run) and [`Db::run_read`](super::Db::run_read) try again, over all of this router.
    /// Default: a fifth of the calls, and 10 per second besides.
    #[must_use]
    pub fn retry_budget(mut self, budget: budget::Config) -> Self {
        self.settings.retry_budget = budget;
        self
    }

    /// How long to wait for a connection when all are in use. Default 1 s, then
    /// [`Error::Pool`](super::Error::Pool).
    #[must_use]
    pub fn pool_wait(mut self, limit: Duration) -> Self {
        self.settings.pool_wait = limit;
        self
    }

    /// How long a write waits for a primary before it fails. Default 2 s: longer than a switchover's gap, shorter than
    /// the patience of most callers.
    #[must_use]
    pub fn write_wait(mut self, limit: Duration) -> Self {
        self.settings.write_wait = limit;
        self
    }

    /// How long a read waits for one replica to catch up with the client's token before it goes to the primary.
    /// Default 50 ms; replicas are behind by well under 5 ms in normal operation.
    #[must_use]
    pub fn replica_wait(mut self, limit: Duration) -> Self {
        self.settings.replica_wait = limit;
        self
    }

    /// How long a COMMIT may take before its outcome counts as unknown. Default 10 s: a synchronous commit waits for
    /// a standby, and giving up early only turns slow into unknown.
    #[must_use]
    pub fn commit_timeout(mut self, limit: Duration) -> Self {
        self.settings.commit_timeout = limit;
        self
    }

    /// How long a node may be unreachable before the connections in use on it are cut, so that a query on a frozen
    /// node ends. Default 3 s. A node that lost its role to another is cut at once.
    #[must_use]
    pub fn cut_after(mut self, limit: Duration) -> Self {
        self.settings.cut_after = limit;
        self
    }

    /// Reads that may run on the primary at the same time because no replica could serve them. Default: half of
    /// `pool_size`, so that a loss of the replicas leaves the primary room for writes; all of it with a single node.
    #[must_use]
    pub fn fallback_reads(mut self, reads: usize) -> Self {
        self.settings.fallback_reads = Some(reads);
        self
    }

    /// Pins the database cluster (`SELECT system_identifier FROM pg_control_system()`). Default: the one that most
    /// nodes report; others are refused.
    #[must_use]
    pub fn system_id(mut self, id: u64) -> Self {
        self.settings.system_id = Some(id);
        self
    }

    /// Checks the settings and starts probing. No node needs to be up.
    ///
    /// # Errors
    /// [`ConfigError`], by name and value. Also when called outside a tokio runtime.
    pub fn build(self) -> Result<Router, ConfigError> {
        let nodes = self.validate()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConfigError::NoRuntime)?;
        Router::start(nodes, self.settings, self.listeners, runtime)
    }

    fn validate(&self) -> Result<Vec<NodeConfig>, ConfigError> {
        let settings = &self.settings;
        if self.nodes.is_empty() {
            return Err(ConfigError::NoNode);
        }
        for (name, value) in [
            ("max_lag", settings.max_lag),
            ("probe_interval", settings.probe_interval),
            ("probe_timeout", settings.probe_timeout),
            ("connect_timeout", settings.connect_timeout),
            ("pool_wait", settings.pool_wait),
            ("write_wait", settings.write_wait),
            ("commit_timeout", settings.commit_timeout),
            ("cut_after", settings.cut_after),
        ] {
            if value.is_zero() {
                return Err(ConfigError::Zero { name, value });
            }
        }
        let counts = [
            ("pool_size", settings.pool_size),
            ("readmit_after", settings.readmit_after as usize),
            ("replica_pool_size", settings.replica_pool_size.unwrap_or(1)),
            ("fallback_reads", settings.fallback_reads.unwrap_or(1)),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(ConfigError::ZeroCount { name });
        }
        settings.retry_budget.validate()?;
        if settings.max_lag < settings.probe_interval {
            // Lag is only known to one probe interval, so a finer bound would eject healthy replicas.
            return Err(ConfigError::Inverted {
                name: "max_lag",
                value: settings.max_lag,
                other: "probe_interval",
                other_value: settings.probe_interval,
            });
        }
        if self.nodes.len() > MAX_NODES {
            return Err(ConfigError::TooManyNodes { limit: MAX_NODES });
        }
        let known = |name: &String| self.nodes.iter().any(|(node, _)| node == name);
        if let Some((name, _)) = self.localities.iter().find(|(name, _)| !known(name)) {
            return Err(ConfigError::UnknownNode { name: name.clone() });
        }
        let mut nodes: Vec<NodeConfig> = Vec::new();
        for (name, server) in &self.nodes {
            if nodes.iter().any(|other| other.name == *name) {
                return Err(ConfigError::DuplicateNode { name: name.clone() });
            }
            let place = self.localities.iter().rev().find(|(node, _)| node == name);
            let place = place.map(|(_, place)| place.clone());
            nodes.push(NodeConfig::new(name.clone(), server, place, settings)?);
        }
        Ok(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Builder {
        Builder::default().node("a", "host=127.0.0.1 user=x")
    }

    fn refused(builder: Builder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn bad_settings_are_refused_by_name_and_value() {
        let zero = Duration::ZERO;
        for (builder, message) in [
            (Builder::default(), "no node: at least one is needed"),
            (good().node("a", "host=b"), "node \"a\" is given twice"),
            (good().node("", "host=b"), "a node has an empty name"),
            (
                good().node("b", "host=b port=x"),
                "connection string of node \"b\" is not valid",
            ),
            (
                good().node("b", "user=x"),
                "connection string of node \"b\" names 0 hosts, a node is exactly one",
            ),
            (
                good().node("b", "host=x,y"),
                "connection string of node \"b\" names 2 hosts, a node is exactly one",
            ),
            (
                good().node("b", "host=b sslmode=require"),
                "node \"b\" has sslmode=require, and no TLS was given to the builder",
            ),
            (
                good().node_config("b", tokio_postgres::Config::new()),
                "connection string of node \"b\" names 0 hosts, a node is exactly one",
            ),
            (
                good().node("b", "host=b target_session_attrs=read-write"),
                "connection string of node \"b\" has target_session_attrs, roles are found out",
            ),
            (
                good().replica_pool_size(0),
                "replica_pool_size is 0, it must be at least 1",
            ),
            (
                good().retry_budget(budget::Config {
                    retry_ratio: 2.0,
                    ..budget::Config::default()
                }),
                "budget.retry_ratio is 2: must be within 0.0..=1.0",
            ),
            (
                good().max_lag(zero),
                "max_lag is 0ns, it must be more than zero",
            ),
            (
                good().probe_interval(zero),
                "probe_interval is 0ns, it must be more than zero",
            ),
            (
                good().probe_timeout(zero),
                "probe_timeout is 0ns, it must be more than zero",
            ),
            (good().pool_size(0), "pool_size is 0, it must be at least 1"),
            (
                good().fallback_reads(0),
                "fallback_reads is 0, it must be at least 1",
            ),
            (
                good().max_lag(Duration::from_millis(50)),
                "max_lag is 50ms, it must be at least probe_interval which is 100ms",
            ),
            (good().locality("b", "eu-1"), "there is no node \"b\""),
            (
                (0..64).fold(good(), |builder, n| builder.node(n.to_string(), "host=x")),
                "more than 64 nodes",
            ),
            (good(), "build() was called outside a tokio runtime"),
        ] {
            assert_eq!(refused(builder), message);
        }
    }
}
