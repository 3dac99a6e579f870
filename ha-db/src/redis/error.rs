//! What a command can come to.

use std::time::Duration;

use ::redis::RedisError;

use super::follow::Reason;

/// Why a command did not give an answer.
///
/// The variants say whether the server may have run the command, because that decides whether it can be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command never reached a master: no master was known until the deadline, or too many commands were
    /// waiting for one already. Nothing changed; repeating it is safe.
    #[error("command not sent: {why} (waited {waited:?})")]
    NotSent {
        /// What kept it back.
        why: NotSent,
        /// How long the command waited for a master.
        waited: Duration,
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
                why: NotSent::NoMaster,
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
        matches!(self, Self::NotSent { .. } | Self::Unknown { .. })
    }
}

/// What is wrong with a configuration, by field and value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
        /// `node` or `sentinel`.
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
    /// `build` was called outside of a tokio runtime, which its background tasks need.
    #[error("no tokio runtime: build the connection inside one")]
    NoRuntime,
}
