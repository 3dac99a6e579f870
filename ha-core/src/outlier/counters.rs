use super::{Cause, Config};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How a request ended, as far as it says something about the endpoint.
///
/// What was pushed back (429, `RESOURCE_EXHAUSTED`, 503 with `Retry-After`) and what was cancelled says neither: do not
/// record it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// An answer that does not blame the endpoint.
    Success,
    /// A 5xx, a timeout, a broken answer.
    Failure,
    /// No connection could be made. Counts as a failure as well.
    ConnectFailure,
}

const FAILURES: u32 = 0b01;
const CONNECT_FAILURES: u32 = 0b10;

/// What is counted about one endpoint between two sweeps. Shared by reference; recording takes no lock.
// The window stands alone in what every request changes; the rest is only read while all is well.
#[derive(Debug)]
pub struct Counters {
    /// Requests in the upper half, failures in the lower: swapped together, none is lost and none counted twice.
    window: AtomicU64,
    failures: AtomicU32,
    connect_failures: AtomicU32,
    tripped: AtomicU32,
    ejected: AtomicU32,
    // Zero is off: a run has at least length 1.
    most_failures: u32,
    most_connect_failures: u32,
}

impl Counters {
    /// Counters with the thresholds of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            window: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            connect_failures: AtomicU32::new(0),
            tripped: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            most_failures: config.consecutive_failures.unwrap_or(0),
            most_connect_failures: config.consecutive_connect_failures.unwrap_or(0),
        }
    }

    /// Counts one request. True when this one completes a run of failures: then wake the task that calls
    /// [`Outliers::sweep`](super::Outliers::sweep), so that it does not wait for the end of the interval.
    #[inline]
    #[must_use = "a run that is complete wants a sweep"]
    pub fn record(&self, outcome: Outcome) -> bool {
        const ONE: u64 = 1 << 32;
        if outcome == Outcome::Success {
            self.window.fetch_add(ONE, Ordering::Relaxed);
            end_run(&self.failures);
            end_run(&self.connect_failures);
            return false;
        }
        self.window.fetch_add(ONE | 1, Ordering::Relaxed);
        self.record_failure(outcome)
    }

    #[cold]
    fn record_failure(&self, outcome: Outcome) -> bool {
        let mut tripped = 0;
        if longer_run(&self.failures) == self.most_failures {
            tripped |= FAILURES;
        }
        if outcome == Outcome::ConnectFailure {
            if longer_run(&self.connect_failures) == self.most_connect_failures {
                tripped |= CONNECT_FAILURES;
            }
        } else {
            end_run(&self.connect_failures);
        }
        if tripped == 0 {
            return false;
        }
        // A success that comes before the sweep does not undo it: what happens must not depend on when the task runs.
        self.tripped.fetch_or(tripped, Ordering::Relaxed);
        !self.is_ejected()
    }

    /// Whether it is ejected now.
    #[inline]
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) != 0
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(u32::from(ejected), Ordering::Relaxed);
    }

    /// What was counted since the last call.
    pub(super) fn take_window(&self) -> Tally {
        let word = self.window.swap(0, Ordering::Relaxed);
        Tally {
            requests: (word >> 32) as u32,
            failures: word as u32,
        }
    }

    /// The run of failures that was completed since the last call, or that goes on all the while.
    pub(super) fn take_trip(&self) -> Option<Cause> {
        // Reading first: there is one nearly never.
        let tripped = match self.tripped.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.tripped.swap(0, Ordering::Relaxed),
        };
        let goes_on = |run: &AtomicU32, most| most > 0 && run.load(Ordering::Relaxed) >= most;
        if tripped & CONNECT_FAILURES != 0
            || goes_on(&self.connect_failures, self.most_connect_failures)
        {
            Some(Cause::ConsecutiveConnectFailures)
        } else if tripped != 0 || goes_on(&self.failures, self.most_failures) {
            Some(Cause::ConsecutiveFailures)
        } else {
            None
        }
    }

    pub(super) fn forget(&self) {
        self.window.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.connect_failures.store(0, Ordering::Relaxed);
        self.tripped.store(0, Ordering::Relaxed);
    }
}

fn end_run(run: &AtomicU32) {
    // Reading first keeps the line shared between cores while all is well.
    if run.load(Ordering::Relaxed) != 0 {
        run.store(0, Ordering::Relaxed);
    }
}

fn longer_run(run: &AtomicU32) -> u32 {
    run.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

/// One interval of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u32,
    pub(super) failures: u32,
}

impl Tally {
    pub(super) fn success_ratio(self) -> f64 {
        1.0 - self.failure_ratio()
    }

    pub(super) fn failure_ratio(self) -> f64 {
        f64::from(self.failures) / f64::from(self.requests.max(1))
    }
}
