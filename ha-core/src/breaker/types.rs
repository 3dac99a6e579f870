use std::num::NonZeroU64;
use std::time::Duration;

use super::machine::{FIRST, PROBING, TAG};

/// What a breaker does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// Lets every call through and counts.
    Closed,
    /// Lets none through until its wait is over.
    Open,
    /// Lets one probe through at a time.
    HalfOpen,
}

/// How a call ended, as the caller's classifier sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint did its work. An answer that blames the caller (a 404) is a success.
    Success,
    /// It did not: an error, a 5xx, a timeout.
    Failure,
    /// It is alive and asks for less (429, `RESOURCE_EXHAUSTED`). Counts as a failure in the ratio only; a probe that
    /// ends like this decides nothing.
    Overloaded,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Trip {
    /// Too large a share of the calls in the window failed.
    FailureRatio,
    /// Too many calls failed in a row.
    ConsecutiveFailures,
    /// Too large a share of the calls in the window was slow.
    SlowCallRatio,
    /// A probe failed, or was slow where slow calls count.
    Probe,
}

/// Leave to make one call. Give it back with [`Breaker::record`](super::Breaker::record) or, when the call had no outcome,
/// [`Breaker::release`](super::Breaker::release): a probe that is never given back blocks the next one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe that is never given back blocks the next one"]
pub struct Permit(NonZeroU64);

impl Permit {
    // A gate that lets a call through has this bit. So a permit is never zero, and one that may be missing is no larger.
    pub(super) fn of(gate: u64) -> Self {
        Self(NonZeroU64::MIN | gate)
    }

    pub(super) fn gate(&self) -> u64 {
        self.0.get()
    }

    /// Whether this call decides if the breaker closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.gate() & TAG == PROBING
    }

    /// Whether it is the first probe after the breaker was open: with it, the breaker has become half-open.
    #[must_use]
    pub fn is_first_probe(&self) -> bool {
        self.is_probe() && self.gate() & FIRST != 0
    }
}

/// The breaker does not let the call through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker is open")]
pub struct Rejected {
    /// How long until the next probe may go, as far as that is known.
    pub retry_in: Option<Duration>,
}

/// What a breaker has counted, for people and dashboards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// What it does now.
    pub state: State,
    /// Calls in the window.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls in the window, whether they failed or not; 0 where they do not count.
    pub slow_calls: u64,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Trips since it was last closed.
    pub trips: u32,
    /// Why it opened last; none since it was last closed.
    pub tripped_by: Option<Trip>,
    /// Whether it stays as it is until it is reset: it was forced open or closed.
    pub forced: bool,
}
