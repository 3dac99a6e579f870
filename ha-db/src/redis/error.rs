//! What a command can come to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::redis::RedisError;

use super::follow::Reason;

/// Why a command did not give an answer.
///
/// The variants say whether the server may have run the command, because that decides whether it can be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No master ran the command: none was known until the deadline, too many commands were waiting or under way already, or every
    /// node it was given to said that it could not serve it. Nothing changed; repeating it is safe.
    #[error("command not sent: {why} (waited {waited:?})")]
    NotSent {
        /// What kept it back.
        why: NotSent,
        /// How long the command waited for a master.
        waited: Duration,
        /// Why there is none, where that is known: a name the Sentinels do not know, a login that is refused, a link that fails.
        #[source]
        cause: Option<Arc<Failure>>,
    },
    /// The command was handed to a connection and its answer is not known: it may have run, now or later, or never.
    /// Repeat it only when running it twice does no harm.
    #[error("command sent, outcome unknown: {why} (after {after:?})")]
    Unknown {
        /// What took the answer away.
        why: Unknown,
        /// How long after the call.
        after: Duration,
        /// What the driver said, where it said anything.
        #[source]
        source: Option<RedisError>,
    },
    /// The server ran into an error and said so. For a single command nothing changed; a script or a pipeline may
    /// have done what came before the error.
    #[error("redis refused the command")]
    Server(#[source] RedisError),
    /// The command ran; its reply is not of the type that was asked for.
    #[error("reply of another type")]
    Reply(#[source] RedisError),
    /// The driver refused the command before it was sent.
    #[error("invalid command")]
    Invalid(#[source] RedisError),
}

/// What kept a command from being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// No master was connected before the deadline.
    #[error("no master is connected")]
    NoMaster,
    /// As many commands as allowed were waiting for a master.
    #[error("{limit} commands are waiting for a master already")]
    Overloaded {
        /// The bound, `max_waiting`.
        limit: usize,
    },
    /// As many commands as allowed were under way.
    #[error("{limit} commands are under way already")]
    Full {
        /// The bound, `max_in_flight`.
        limit: usize,
    },
    /// Each node it was given to said, until the deadline, that it could not serve it.
    #[error("no node would serve it")]
    Refused,
    /// In a cluster: its keys are in several slots, or it is about every node. Name keys with the same `{tag}`, or send one command for each.
    #[error("it does not belong to one slot of the cluster")]
    NotOneSlot,
}

/// What took the answer of a sent command away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// The deadline passed.
    #[error("no answer before the deadline")]
    TimedOut,
    /// The link broke.
    #[error("the connection broke")]
    Broken,
    /// The node stopped being the master while the command was under way. An answer it may still give counts for
    /// nothing: what it acknowledges is thrown away when it joins the new master.
    #[error("the node was given up ({0})")]
    Demoted(Reason),
}

impl Error {
    /// The command provably had no effect: repeating it cannot apply it twice.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        matches!(self, Self::NotSent { .. } | Self::Invalid(_))
    }

    /// The command may or may not have run.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// The deadline passed, before or after sending.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::NotSent {
                why: NotSent::NoMaster | NotSent::Refused,
                ..
            } | Self::Unknown {
                why: Unknown::TimedOut,
                ..
            }
        )
    }

    /// The store could not be reached or did not answer, as opposed to having refused this command: the caller's own
    /// data is not to blame and another try later can succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::NotSent { why, .. } => *why != NotSent::NotOneSlot,
            Self::Unknown { .. } => true,
            _ => false,
        }
    }

    /// Why there is no master, where that kept the command from being sent.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::NotSent { cause, .. } => cause.as_deref(),
            _ => None,
        }
    }
}

/// Why there is no master right now. The connection goes on trying.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No Sentinel answered.
    #[error("no sentinel of {asked} answers")]
    NoSentinel {
        /// Those that were asked.
        asked: String,
    },
    /// The Sentinels that answered watch no master of that name.
    #[error(
        "master {name:?} is not known to sentinel {sentinel}; name one of those that `SENTINEL MASTERS` lists"
    )]
    UnknownMaster {
        /// The name that was configured.
        name: String,
        /// Who does not know it.
        sentinel: String,
    },
    /// The Sentinels are choosing a new master.
    #[error("a failover is under way")]
    Failover,
    /// No node of the cluster answered.
    #[error("no node of the cluster answers; asked {asked}")]
    NoClusterNode {
        /// Those that were asked.
        asked: String,
    },
    /// The server is no part of a cluster.
    #[error("{address} is no node of a cluster; use redis:// for it")]
    NotCluster {
        /// `host:port`.
        address: String,
        /// What it said.
        #[source]
        source: RedisError,
    },
    /// Nobody can be connected there.
    #[error("{address}: cannot be connected")]
    Connect {
        /// `host:port`.
        address: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A step of connecting took too long.
    #[error("{address}: no answer within {limit:?} ({step})")]
    TimedOut {
        /// `host:port`.
        address: String,
        /// Which step.
        step: Step,
        /// `connect_timeout`.
        limit: Duration,
    },
    /// The server does not speak TLS on that port, or its certificate is not accepted.
    #[error(
        "{address}: no TLS; either the port is one without, or the certificate is not accepted"
    )]
    Tls {
        /// `host:port`.
        address: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// The server was connected and did not speak as a Redis does. A port for TLS ends links without it.
    #[error("{address}: no greeting; if the port is one for TLS, use rediss://")]
    Greeting {
        /// `host:port`.
        address: String,
        /// What the driver said.
        #[source]
        source: RedisError,
    },
    /// User or password is wrong, or one is needed.
    #[error("{address}: login of user {user:?} is refused")]
    Login {
        /// `host:port`.
        address: String,
        /// The user, `default` where none was named.
        user: String,
        /// What the server said.
        #[source]
        source: RedisError,
    },
    /// The user lacks a right that the connection itself needs: `ROLE` and `PING`, in a cluster `CLUSTER NODES`, on Sentinels `SENTINEL
    /// MASTER` and `SUBSCRIBE`.
    #[error("{address}: user {user:?} lacks a right that the connection needs")]
    NotAllowed {
        /// `host:port`.
        address: String,
        /// The user, `default` where none was named.
        user: String,
        /// What the server said; it names the command.
        #[source]
        source: RedisError,
    },
    /// The link broke, or the server refused.
    #[error("{address}: the link failed")]
    Link {
        /// `host:port`.
        address: String,
        /// What the driver said.
        #[source]
        source: RedisError,
    },
    /// The node is not a master.
    #[error("{address}: ROLE is {role}, not master")]
    NotMaster {
        /// `host:port`.
        address: String,
        /// What it is.
        role: String,
    },
}

/// A step of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Step {
    /// The TCP connection.
    #[error("connecting")]
    Connect,
    /// The TLS handshake. A server that is frozen does not answer it, and neither does a port without TLS.
    #[error("TLS handshake; a port without TLS does not answer it")]
    Tls,
    /// The greeting, with the login where there is one.
    #[error("greeting")]
    Login,
    /// A question after it.
    #[error("question")]
    Question,
}

impl Failure {
    /// Somebody has to change a setting, here or on a server; waiting alone does not help.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        matches!(
            self,
            Self::UnknownMaster { .. }
                | Self::NotCluster { .. }
                | Self::Tls { .. }
                | Self::Login { .. }
                | Self::NotAllowed { .. }
        )
    }

    /// With all that it was caused by, for logs and health pages.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut inner = std::error::Error::source(self);
        while let Some(error) = inner {
            text.push_str(": ");
            text.push_str(&error.to_string());
            inner = error.source();
        }
        text
    }
}

/// What is wrong with a configuration, by field and value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL does not have the shape that the `redis` module describes. Passwords are never repeated here.
    #[error("url: {problem}{}{value}", if value.is_empty() { "" } else { ": " })]
    Url {
        /// What is wrong.
        problem: &'static str,
        /// The offending part; empty where it might hold a password.
        value: String,
    },
    /// A server address is not `host:port`.
    #[error("{field}: {value:?} is not host:port")]
    Address {
        /// `node`, `sentinel` or `cluster_node`.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// Neither a node nor a Sentinel was named, or both were.
    #[error("{0}")]
    Servers(&'static str),
    /// A setting makes no sense.
    #[error(transparent)]
    Value(#[from] ha_core::config::ConfigError),
    /// TLS cannot be set up.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// `build` was called outside of a tokio runtime, which its background tasks need.
    #[error("no tokio runtime: build the connection inside one")]
    NoRuntime,
}
