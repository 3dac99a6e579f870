//! Settings of a [`Connection`], from a builder or a URL.

use std::fmt;
use std::time::Duration;

use ::redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use ha_core::backoff::Backoff;
use ha_core::config::ConfigError as ValueError;
use percent_encoding::percent_decode_str;

use super::connection::Connection;
use super::error::ConfigError;
use super::follow;

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

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
}

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) servers: Servers,
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
}

/// Settings of a [`Connection`].
#[derive(Debug, Clone)]
#[must_use = "nothing is connected before `build`"]
pub struct Builder {
    nodes: Vec<String>,
    sentinels: Vec<String>,
    master: Option<String>,
    login: Login,
    sentinel_login: Login,
    db: i64,
    command_timeout: Duration,
    connect_timeout: Duration,
    timeouts_in_a_row: u32,
    check_interval: Duration,
    failover_hold: Duration,
    max_waiting: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            sentinels: Vec::new(),
            master: None,
            login: Login::default(),
            sentinel_login: Login::default(),
            db: 0,
            command_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_millis(500),
            timeouts_in_a_row: 3,
            check_interval: Duration::from_secs(1),
            failover_hold: Duration::from_secs(5),
            max_waiting: 4096,
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

    /// How many commands in a row may stay unanswered before the node is given up; default 3, so that one slow script does
    /// not cost the connection.
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

    /// Reads servers, login and database from a URL; the other settings stay as they are.
    ///
    /// # Errors
    /// [`ConfigError::Url`] or [`ConfigError::Address`], naming the part; never repeating a password.
    pub fn url(mut self, url: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| bad_url("has no scheme, redis:// or redis+sentinel://", ""))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        self.login = parse_login(login)?;
        if hosts.is_empty() {
            return Err(bad_url("has no host", ""));
        }
        let db = match scheme {
            "redis" => {
                if hosts.contains(',') {
                    return Err(bad_url("names more than one host without Sentinel", hosts));
                }
                if !query.is_empty() {
                    return Err(bad_url("has parameters that are not known", ""));
                }
                self.nodes = vec![parse_address("node", hosts, DEFAULT_PORT)?];
                path
            }
            "redis+sentinel" => {
                self.sentinels = hosts
                    .split(',')
                    .map(|host| parse_address("sentinel", host, DEFAULT_SENTINEL_PORT))
                    .collect::<Result<_, _>>()?;
                let (name, db) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(bad_url("has no master name after the Sentinels", ""));
                }
                self.master = Some(decode(name)?);
                self.sentinel_login = parse_query(query)?;
                db
            }
            "rediss" | "rediss+sentinel" => {
                return Err(bad_url("asks for TLS, which is not supported yet", scheme));
            }
            _ => return Err(bad_url("has a scheme that is not known", scheme)),
        };
        if !db.is_empty() {
            self.db = db
                .parse()
                .map_err(|_| bad_url("has a database that is not a number", db))?;
        }
        Ok(self)
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

    fn check(self) -> Result<Config, ConfigError> {
        let servers = match (self.nodes.as_slice(), self.sentinels.is_empty()) {
            ([], true) => return Err(ConfigError::Servers("no node and no sentinel was named")),
            ([_, ..], false) => {
                return Err(ConfigError::Servers(
                    "a node and sentinels were named; choose one",
                ));
            }
            ([node], true) => Servers::Single(parse_address("node", node, DEFAULT_PORT)?),
            ([_, _, ..], true) => {
                return Err(ConfigError::Servers(
                    "more than one node was named without sentinels",
                ));
            }
            ([], false) => {
                Servers::Sentinel {
                    name: self.master.filter(|name| !name.is_empty()).ok_or(
                        ConfigError::Servers("sentinels were named, but no master name"),
                    )?,
                    sentinels: self
                        .sentinels
                        .iter()
                        .map(|host| parse_address("sentinel", host, DEFAULT_SENTINEL_PORT))
                        .collect::<Result<_, _>>()?,
                }
            }
        };
        ValueError::positive("command_timeout", self.command_timeout)?;
        ValueError::positive("connect_timeout", self.connect_timeout)?;
        ValueError::positive("check_interval", self.check_interval)?;
        ValueError::at_least_one("timeouts_in_a_row", self.timeouts_in_a_row)?;
        if self.max_waiting == 0 {
            return Err(ValueError::new("max_waiting", 0, "must be at least 1").into());
        }
        if self.db < 0 {
            return Err(ValueError::new("db", self.db, "must not be negative").into());
        }
        Ok(Config {
            servers,
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
        })
    }
}

fn bad_url(problem: &'static str, value: &str) -> ConfigError {
    ConfigError::Url {
        problem,
        value: value.to_owned(),
    }
}

fn decode(text: &str) -> Result<String, ConfigError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| bad_url("has percent-encoding that is not UTF-8", ""))
}

fn parse_login(text: &str) -> Result<Login, ConfigError> {
    if text.is_empty() {
        return Ok(Login::default());
    }
    let (user, password) = text
        .split_once(':')
        .ok_or_else(|| bad_url("has a login that is not user:password", ""))?;
    let some = |text: &str| -> Result<Option<String>, ConfigError> {
        Ok(Some(decode(text)?).filter(|text| !text.is_empty()))
    };
    Ok(Login {
        user: some(user)?,
        password: some(password)?,
    })
}

fn parse_query(query: &str) -> Result<Login, ConfigError> {
    let mut login = Login::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => login.user = Some(decode(value)?),
            Some(("sentinel_password", value)) => login.password = Some(decode(value)?),
            _ => {
                let name = pair.split('=').next().unwrap_or_default();
                return Err(bad_url("has a parameter that is not known", name));
            }
        }
    }
    Ok(login)
}

/// `host`, `host:port` or `[v6]:port`, in the canonical form with a port.
fn parse_address(
    field: &'static str,
    text: &str,
    default_port: u16,
) -> Result<String, ConfigError> {
    split_address(text, default_port)
        .map(|(host, port)| follow::address(&host, port))
        .ok_or_else(|| ConfigError::Address {
            field,
            value: text.to_owned(),
        })
}

fn split_address(text: &str, default_port: u16) -> Option<(String, u16)> {
    let text = text.trim();
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
    let clean =
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@,?#".contains(c));
    (clean && port != 0).then(|| (host.to_owned(), port))
}

/// A driver client for one address.
pub(crate) fn client(
    address: &str,
    login: &Login,
    db: i64,
) -> Result<::redis::Client, ::redis::RedisError> {
    let (host, port) = split_address(address, DEFAULT_PORT).ok_or_else(|| {
        ::redis::RedisError::from((
            ::redis::ErrorKind::InvalidClientConfig,
            "address is not host:port",
            address.to_owned(),
        ))
    })?;
    let mut settings = RedisConnectionInfo::default().set_db(db);
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(password);
    }
    let info = ConnectionAddr::Tcp(host, port)
        .into_connection_info()?
        .set_tcp_settings(::redis::io::tcp::TcpSettings::default().set_nodelay(true))
        .set_redis_settings(settings);
    ::redis::Client::open(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<Config, ConfigError> {
        Builder::default().url(text)?.check()
    }

    #[test]
    fn urls_name_one_node_or_the_sentinels() {
        let config = url("redis://10.0.0.1").unwrap();
        assert!(matches!(config.servers, Servers::Single(node) if node == "10.0.0.1:6379"));

        let config = url("redis://app:p%40ss@[::1]:7000/3").unwrap();
        assert!(matches!(config.servers, Servers::Single(node) if node == "[::1]:7000"));
        assert_eq!(config.login.user.as_deref(), Some("app"));
        assert_eq!(config.login.password.as_deref(), Some("p@ss"));
        assert_eq!(config.db, 3);

        let config =
            url("redis+sentinel://:secret@h1,h2:2,h3/mymaster/1?sentinel_password=x").unwrap();
        let Servers::Sentinel { name, sentinels } = config.servers else {
            panic!("no sentinels");
        };
        assert_eq!(name, "mymaster");
        assert_eq!(sentinels, ["h1:26379", "h2:2", "h3:26379"]);
        assert_eq!(config.login.user, None);
        assert_eq!(config.sentinel_login.password.as_deref(), Some("x"));
        assert_eq!(config.db, 1);
    }

    #[test]
    fn bad_urls_are_refused_by_part_and_never_repeat_a_password() {
        for (text, part) in [
            ("10.0.0.1:6379", "scheme"),
            ("http://:hunter2@h", "http"),
            ("rediss://:hunter2@h", "TLS"),
            ("redis://", "no host"),
            ("redis://:hunter2@", "no host"),
            ("redis://hunter2@h", "user:password"),
            ("redis://h:port", "h:port"),
            ("redis://h:0", "h:0"),
            ("redis://h:70000", "h:70000"),
            ("redis://[::1", "[::1"),
            ("redis://a,b", "more than one host"),
            ("redis://h/x", "database"),
            ("redis://h/-1", "db is -1"),
            ("redis://h?x=hunter2", "parameters"),
            ("redis+sentinel://h1,h2", "master name"),
            ("redis+sentinel://h1,,h2/m", "sentinel"),
            ("redis+sentinel://h1/m?x=hunter2", "parameter"),
            ("redis://:%ff@h", "UTF-8"),
        ] {
            let error = url(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn senseless_settings_are_refused_by_name_and_value() {
        let node = || Builder::default().node("h:1");
        for (builder, part) in [
            (Builder::default(), "no node"),
            (node().sentinel("s"), "choose one"),
            (node().node("h:2"), "more than one node"),
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
        assert_eq!(error, ConfigError::NoRuntime);
    }

    #[test]
    fn debug_output_hides_passwords() {
        let builder = Builder::default().password("hunter2");
        assert!(!format!("{builder:?}").contains("hunter2"));
    }
}
