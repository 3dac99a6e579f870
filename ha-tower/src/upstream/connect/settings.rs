use std::time::Duration;

use ha_core::config::ConfigError;

use crate::drain::HEADER_READ_TIMEOUT;

const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

// Of two ends that close an idle connection, the one that sends requests must be the first.
const _: () = assert!(IDLE_TIMEOUT.as_millis() < HEADER_READ_TIMEOUT.as_millis());

/// The kernel keeps the idle time in a field that ends here.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// Limits and times of the connections to each endpoint, for
/// [`Builder::connections`](super::super::Builder::connections).
///
/// Every limit is per endpoint and per [`Upstream`](super::super::Upstream).
///
/// ```
/// use std::time::Duration;
/// use ha_tower::upstream::Connections;
///
/// let connections = Connections::default()
///     .max(64)
///     .max_pending(128)
///     .idle_timeout(Duration::from_secs(60)) // the apps close after 75
///     .max_age(Some(Duration::from_secs(600)));
/// # let _ = connections;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "give it to Builder::connections"]
pub struct Connections {
    pub(super) max: u32,
    pub(super) max_pending: u32,
    pub(super) idle_timeout: Duration,
    pub(super) max_age: Option<Duration>,
    pub(super) tcp_keepalive: Option<Duration>,
    pub(super) tcp_user_timeout: Option<Duration>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 1024,
            max_pending: 1024,
            idle_timeout: IDLE_TIMEOUT,
            max_age: Some(Duration::from_secs(1800)),
            tcp_keepalive: Some(Duration::from_secs(15)),
            tcp_user_timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl Connections {
    /// At most this many connections are open. Default 1024: the usual limit of open files of a process, and more than an
    /// app answers at once. With HTTP/1.1 this is also the most requests at once; a connection that switched protocols
    /// counts until it is closed.
    pub fn max(mut self, connections: u32) -> Self {
        self.max = connections;
        self
    }

    /// At most this many requests wait for a connection; the next one is refused with
    /// [`Error::Full`](super::super::Error::Full), which a retry takes to another endpoint. Each waits no longer than the
    /// attempt timeout. Default 1024: as many as are served. 0 means that none waits.
    pub fn max_pending(mut self, requests: u32) -> Self {
        self.max_pending = requests;
        self
    }

    /// An idle connection is closed after this time. It must be below the keep-alive time of the endpoints: a request that is sent
    /// while the endpoint closes fails without anybody knowing whether it was read. Default 4 s, below the 5 s of Node.js, uvicorn
    /// and Apache, and the 10 s of [`drain::serve`](crate::drain::serve); raise it where all endpoints keep connections longer.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = time;
        self
    }

    /// A connection takes no new request once it is this old, less up to a tenth by lot so that connections that were
    /// opened together do not close together; what is under way on it finishes. `None` means never. Default 30 minutes:
    /// a virtual address that leads to more machines than before gets its share within that time, for one connect per
    /// half hour.
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.max_age = age;
        self
    }

    /// TCP keep-alive: after this much silence the kernel asks every 5 s, and gives up after three unanswered times.
    /// `None` means never. Default 15 s, so that a peer that vanished without a word is noticed after half a minute also when
    /// nothing is being sent. From 1 to 32,767 s.
    pub fn tcp_keepalive(mut self, silence: Option<Duration>) -> Self {
        self.tcp_keepalive = silence;
        self
    }

    /// `TCP_USER_TIMEOUT`: data that was sent and stays unacknowledged for this time ends the connection. `None` leaves it
    /// to the kernel, which tries for a quarter of an hour. Default 30 s, as long as keep-alive takes. Linux only; elsewhere it
    /// does nothing.
    pub fn tcp_user_timeout(mut self, time: Option<Duration>) -> Self {
        self.tcp_user_timeout = time;
        self
    }

    pub(in super::super) fn validate(&self, attempt_timeout: Duration) -> Result<(), ConfigError> {
        ConfigError::at_least_one("connections.max", self.max)?;
        sensible("connections.idle_timeout", self.idle_timeout)?;
        if let Some(age) = self.max_age {
            sensible("connections.max_age", age)?;
            if age < attempt_timeout {
                return Err(refused(
                    "connections.max_age",
                    age,
                    "must not be shorter than attempt_timeout",
                ));
            }
        }
        if let Some(silence) = self.tcp_keepalive
            && !(Duration::from_secs(1)..=LONGEST_KEEPALIVE).contains(&silence)
        {
            return Err(refused(
                "connections.tcp_keepalive",
                silence,
                "must be from 1 s to 32767 s",
            ));
        }
        match self.tcp_user_timeout {
            Some(time) => at_least_a_millisecond("connections.tcp_user_timeout", time),
            None => Ok(()),
        }
    }
}

/// HTTP/2 to the endpoints, for [`Builder::http2`](super::super::Builder::http2).
///
/// Requests share connections as streams. Another connection is opened only when every stream of those that are open is
/// taken, and at most [`Connections::max`] of them.
#[cfg(feature = "http2")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "give it to Builder::http2"]
pub struct Http2 {
    pub(super) max_streams: u32,
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) keep_alive_timeout: Duration,
    pub(super) adaptive_window: bool,
}

#[cfg(feature = "http2")]
impl Http2 {
    /// HTTP/2 from the first byte on (h2c), without asking: every endpoint must speak it.
    pub fn prior_knowledge() -> Self {
        Self {
            max_streams: 100,
            keep_alive_interval: Some(Duration::from_secs(10)),
            keep_alive_timeout: Duration::from_secs(5),
            adaptive_window: true,
        }
    }

    /// At most this many requests at once on one connection, or fewer when the endpoint allows fewer. Default 100, the
    /// least that RFC 9113 wants a server to allow.
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.max_streams = streams;
        self
    }

    /// How often a PING asks whether the endpoint is still there while requests are open; `None` means never. Default
    /// 10 s. Some gRPC servers close connections that ask more often than they are set up for (grpc-go: once in five
    /// minutes when it sends nothing itself); allow it there or set a longer interval.
    pub fn keep_alive_interval(mut self, interval: Option<Duration>) -> Self {
        self.keep_alive_interval = interval;
        self
    }

    /// How long the answer to a PING may take before the connection is given up with all its requests. Default 5 s: with
    /// the interval, a machine that froze is noticed within 15 s.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// Whether the receive window grows with the measured bandwidth and delay. Default on: a fixed window bounds the rate of
    /// a long path.
    pub fn adaptive_window(mut self, adaptive: bool) -> Self {
        self.adaptive_window = adaptive;
        self
    }

    pub(in super::super) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_least_one("http2.max_streams", self.max_streams)?;
        if let Some(interval) = self.keep_alive_interval {
            sensible("http2.keep_alive_interval", interval)?;
        }
        sensible("http2.keep_alive_timeout", self.keep_alive_timeout)
    }
}

fn sensible(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    ConfigError::positive(field, value)?;
    ConfigError::at_most_a_day(field, value)
}

/// The kernel counts in milliseconds, and takes 0 for its own default.
fn at_least_a_millisecond(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    if value < Duration::from_millis(1) {
        return Err(refused(field, value, "must be at least 1 ms"));
    }
    ConfigError::at_most_a_day(field, value)
}

fn refused(field: &'static str, value: Duration, reason: &'static str) -> ConfigError {
    ConfigError::new(field, format_args!("{value:?}"), reason)
}
