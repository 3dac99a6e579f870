use std::fmt;
use std::time::Duration;

use ha_core::limit::{Cause, Priority};
use tower::BoxError;

/// Why a request was refused here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// As much is under way as may be, and nobody may wait, or as many wait as may.
    Full,
    /// It waited, and somebody of a higher priority took its place in a full queue.
    Displaced,
    /// It waited for longer than is allowed now.
    Delay,
    /// It waited until its [`Deadline`](crate::timeout::Deadline).
    Deadline,
    /// The service inside was not ready.
    NotReady,
    /// Its key has used up its rate.
    Rate,
    /// The server refuses most of what it is asked.
    Throttled,
}

impl Reason {
    /// As in a label or a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Displaced => "displaced",
            Self::Delay => "delay",
            Self::Deadline => "deadline",
            Self::NotReady => "not_ready",
            Self::Rate => "rate",
            Self::Throttled => "throttled",
        }
    }

    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Full | Self::NotReady => "too much is under way",
            Self::Displaced => "more important requests came first",
            Self::Delay => "the wait was too long",
            Self::Deadline => "the deadline passed while waiting",
            Self::Rate => "too many requests from this caller",
            Self::Throttled => "what is behind refuses most requests",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Displaced => Self::Displaced,
            Cause::Delay => Self::Delay,
            Cause::Deadline => Self::Deadline,
            _ => Self::Full,
        }
    }
}

/// A request that was refused here. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shed {
    /// Why.
    pub reason: Reason,
    /// What the request was worth.
    pub priority: Priority,
    /// When it is worth to come again, where that is known.
    pub retry_after: Option<Duration>,
    pub(super) quota: Option<Remaining>,
}

impl Shed {
    pub(super) const fn new(reason: Reason, priority: Priority) -> Self {
        Self {
            reason,
            priority,
            retry_after: None,
            quota: None,
        }
    }
}

/// What is left of a rate, for the response's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) burst: u32,
    /// Until a used-up quota is whole again.
    pub(super) window: Duration,
    pub(super) left: u32,
    pub(super) whole_in: Duration,
}

/// Why a call through a limit failed, in the generic form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was refused here, and nothing was sent: asking again at once makes matters worse.
    #[error("request was shed: {}", .0.reason)]
    Shed(Shed),
    /// The service failed.
    #[error("service behind the limit failed")]
    Service(#[source] BoxError),
}

impl Error {
    /// Whether the request was refused here, so that nothing is known of the service.
    #[must_use]
    pub fn is_shed(&self) -> bool {
        matches!(self, Self::Shed(_))
    }

    /// Why it was refused here.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Shed(shed) => Some(shed.reason),
            Self::Service(_) => None,
        }
    }

    /// When it is worth to come again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Shed(shed) => shed.retry_after,
            Self::Service(_) => None,
        }
    }
}

/// Whether this error, or one that caused it, says that a request was [shed](Error::is_shed).
#[must_use]
pub fn is_shed(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.downcast_ref::<Error>().is_some_and(Error::is_shed))
}
