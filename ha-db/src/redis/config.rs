//! Settings of a [`Connection`], from a builder or a URL.

use std::fmt;
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::config::ConfigError as ValueError;

use super::connection::Connection;
use super::dial::Dialer;
use super::error::ConfigError;
use super::url::{DEFAULT_PORT, DEFAULT_SENTINEL_PORT, parse_address};

/// Who may log in.
#[derive(Clone, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| ".."))
            .finish()
    }
}

/// Where the master is to be found.
#[derive(Debug, Clone)]
pub(crate) enum Servers {
    /// One node, always the same.
    Single(String),
    /// The Sentinels that know.
    Sentinel {
        name: String,
        sentinels: Vec<String>,
    },
    /// Nodes of a cluster, any of which knows the others.
    Cluster(Vec<String>),
}

/// Whether links are encrypted, and how.
#[derive(Debug, Clone, Default)]
pub(crate) enum Encryption {
    #[default]
    Plain,
    /// TLS as this says; what the system trusts where it says nothing.
    #[cfg(feature = "tls")]
    Tls(Option<crate::tls::Tls>),
}

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) servers: Servers,
    pub(crate) dialer: Dialer,
    pub(crate) login: Login,
    pub(crate) sentinel_login: Login,
    pub(crate) db: i64,
    pub(crate) command_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeouts_in_a_row: u32,
    pub(crate) check_interval: Duration,
    pub(crate) failover_hold: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) max_waiting: usize,
    pub(crate) max_in_flight: usize,
}

/// Settings of a [`Connection`].
#[derive(Debug, Clone)]
#[must_use = "nothing is connected before `build`"]
pub struct Builder {
    pub(super) nodes: Vec<String>,
    pub(super) sentinels: Vec<String>,
    pub(super) cluster: Vec<String>,
    pub(super) master: Option<String>,
    pub(super) login: Login,
    pub(super) sentinel_login: Login,
    pub(super) encryption: Encryption,
    pub(super) db: i64,
    command_timeout: Duration,
    connect_timeout: Duration,
    timeouts_in_a_row: u32,
    check_interval: Duration,
    failover_hold: Duration,
    max_waiting: usize,
    max_in_flight: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            sentinels: Vec::new(),
            cluster: Vec::new(),
            master: None,
            login: Login::default(),
            sentinel_login: Login::default(),
            encryption: Encryption::Plain,
            db: 0,
            command_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_millis(500),
            timeouts_in_a_row: 3,
            check_interval: Duration::from_secs(1),
            failover_hold: Duration::from_secs(5),
            max_waiting: 4096,
            max_in_flight: 8192,
        }
    }
}

impl Builder {
    /// A single server, `host:port`. Excludes [`sentinel`](Self::sentinel).
    pub fn node(mut self, address: impl Into<String>) -> Self {
        self.nodes.push(address.into());
        self
    }

    /// One Sentinel, `host:port`; name each of them. Needs [`master`](Self::master).
    pub fn sentinel(mut self, address: impl Into<String>) -> Self {
        self.sentinels.push(address.into());
        self
    }

    /// One node of a Redis Cluster, `host:port`; name several, in case one is down. Excludes the others.
    pub fn cluster_node(mut self, address: impl Into<String>) -> Self {
        self.cluster.push(address.into());
        self
    }

    /// Encrypts every link, those to Sentinels included; default: the URL decides, and TLS then trusts what the system trusts.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.encryption = Encryption::Tls(Some(tls));
        self
    }

    /// The name under which the Sentinels watch the master.
    pub fn master(mut self, name: impl Into<String>) -> Self {
        self.master = Some(name.into());
        self
    }

    /// The ACL user of the Redis servers; default: the server's default user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.login.user = Some(user.into());
        self
    }

    /// The password of the Redis servers; default: none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.login.password = Some(password.into());
        self
    }

    /// User and password of the Sentinels, which have their own; default: none.
    pub fn sentinel_login(mut self, user: Option<String>, password: Option<String>) -> Self {
        self.sentinel_login = Login { user, password };
        self
    }

    /// The database number; default 0.
    pub fn db(mut self, db: i64) -> Self {
        self.db = db;
        self
    }

    /// How long a command may take, waiting for a master included; default 500 ms, a hundred times what a healthy
    /// server needs and still short enough to answer the request that waits for it.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// How long each step of connecting may take, and each question to a Sentinel; default 500 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many commands in a row may stay unanswered before the node is given up, and for how many
    /// [`command_timeout`](Self::command_timeout)s nothing at all; default 3, so that one slow script does not cost the connection, however many
    /// wait behind it.
    pub fn timeouts_in_a_row(mut self, count: u32) -> Self {
        self.timeouts_in_a_row = count;
        self
    }

    /// How often the role of the node and the Sentinels' view are compared with the connection in use; default 1 s. It
    /// catches what an announcement that never arrived would have said.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = interval;
        self
    }

    /// For how long at most commands are held back while a Sentinel leads a failover; default 5 s, longer than a
    /// failover takes once it has started. Zero turns this off. The old master goes on acknowledging writes until it is
    /// demoted, and all of them are lost, so they wait for the new one instead.
    pub fn failover_hold(mut self, hold: Duration) -> Self {
        self.failover_hold = hold;
        self
    }

    /// How many commands may wait for a master at a time; default 4096. One more fails at once.
    pub fn max_waiting(mut self, count: usize) -> Self {
        self.max_waiting = count;
        self
    }

    /// How many commands may be under way at a time, over all nodes; default 8192, more than a server that answers ever has, and
    /// little enough memory while one is frozen. One more fails at once.
    pub fn max_in_flight(mut self, count: usize) -> Self {
        self.max_in_flight = count;
        self
    }

    /// Reads servers, login and database from a URL; the other settings stay as they are.
    ///
    /// # Errors
    /// [`ConfigError::Url`] or [`ConfigError::Address`], naming the part; never repeating a password.
    pub fn url(self, url: &str) -> Result<Self, ConfigError> {
        super::url::apply(self, url)
    }

    /// Checks the settings and starts to connect in the background. It does not wait: the servers may be down.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting and its value; [`ConfigError::NoRuntime`] outside of a tokio runtime.
    pub fn build(self) -> Result<Connection, ConfigError> {
        let config = self.check()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        Ok(Connection::start(config))
    }

    pub(super) fn check(self) -> Result<Config, ConfigError> {
        let servers = self.servers()?;
        for (field, value) in [
            ("command_timeout", self.command_timeout),
            ("connect_timeout", self.connect_timeout),
            ("check_interval", self.check_interval),
        ] {
            ValueError::positive(field, value)?;
            ValueError::at_most_a_day(field, value)?;
        }
        ValueError::at_most_a_day("failover_hold", self.failover_hold)?;
        ValueError::at_least_one("timeouts_in_a_row", self.timeouts_in_a_row)?;
        for (field, count) in [
            ("max_waiting", self.max_waiting),
            ("max_in_flight", self.max_in_flight),
        ] {
            if count == 0 {
                return Err(ValueError::new(field, count, "must be at least 1").into());
            }
        }
        if self.db < 0 {
            return Err(ValueError::new("db", self.db, "must not be negative").into());
        }
        if self.db > 0 && matches!(servers, Servers::Cluster(_)) {
            return Err(ValueError::new("db", self.db, "must be 0 in a cluster").into());
        }
        Ok(Config {
            servers,
            dialer: Dialer::new(self.encryption, self.connect_timeout)?,
            login: self.login,
            sentinel_login: self.sentinel_login,
            db: self.db,
            command_timeout: self.command_timeout,
            connect_timeout: self.connect_timeout,
            timeouts_in_a_row: self.timeouts_in_a_row,
            check_interval: self.check_interval,
            failover_hold: self.failover_hold,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(500)),
            max_waiting: self.max_waiting,
            max_in_flight: self.max_in_flight,
        })
    }

    fn servers(&self) -> Result<Servers, ConfigError> {
        let refuse = |problem| Err(ConfigError::Servers(problem));
        let all = |field, list: &[String], port| -> Result<Vec<_>, _> {
            list.iter()
                .map(|host| parse_address(field, host, port))
                .collect()
        };
        let (nodes, sentinels) = (self.nodes.as_slice(), self.sentinels.as_slice());
        match (nodes, sentinels, self.cluster.as_slice()) {
            ([], [], []) => refuse("no node and no sentinel was named"),
            ([node], [], []) => Ok(Servers::Single(parse_address("node", node, DEFAULT_PORT)?)),
            ([_, ..], [], []) => refuse(
                "more than one node was named without sentinels; name nodes of a cluster with cluster_node",
            ),
            ([], [_, ..], []) => Ok(Servers::Sentinel {
                name: self.master.clone().filter(|name| !name.is_empty()).ok_or(
                    ConfigError::Servers("sentinels were named, but no master name"),
                )?,
                sentinels: all("sentinel", sentinels, DEFAULT_SENTINEL_PORT)?,
            }),
            ([], [], cluster) => Ok(Servers::Cluster(all(
                "cluster_node",
                cluster,
                DEFAULT_PORT,
            )?)),
            ([_, ..], [_, ..], []) => refuse("a node and sentinels were named; choose one"),
            _ => refuse("nodes of a cluster were named beside a node or sentinels; choose one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_settings_are_refused_by_name_and_value() {
        let node = || Builder::default().node("h:1");
        for (builder, part) in [
            (Builder::default(), "no node"),
            (node().sentinel("s"), "choose one"),
            (node().node("h:2"), "more than one node"),
            (node().cluster_node("h:2"), "choose one"),
            (
                Builder::default().cluster_node("h:2").sentinel("s"),
                "choose one",
            ),
            (
                Builder::default().cluster_node("h:x"),
                "cluster_node: \"h:x\"",
            ),
            (Builder::default().cluster_node("h").db(1), "db is 1"),
            (node().max_in_flight(0), "max_in_flight is 0"),
            (Builder::default().sentinel("s"), "no master name"),
            (
                node().command_timeout(Duration::ZERO),
                "command_timeout is 0ns",
            ),
            (
                node().connect_timeout(Duration::ZERO),
                "connect_timeout is 0ns",
            ),
            (
                node().command_timeout(Duration::MAX),
                "must not be longer than a day",
            ),
            (
                node().failover_hold(Duration::MAX),
                "must not be longer than a day",
            ),
            (
                node().check_interval(Duration::ZERO),
                "check_interval is 0ns",
            ),
            (node().timeouts_in_a_row(0), "timeouts_in_a_row is 0"),
            (node().max_waiting(0), "max_waiting is 0"),
        ] {
            let error = builder.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn outside_of_a_runtime_the_error_says_so() {
        let error = Builder::default().node("h:1").build().unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntime), "{error}");
    }

    #[test]
    fn debug_output_hides_passwords() {
        let builder = Builder::default().password("hunter2");
        assert!(!format!("{builder:?}").contains("hunter2"));
    }
}
