use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_core::backoff::Backoff;
use ha_core::budget::Budget;

use super::policy::Cause;
use super::report;
use crate::clock;

/// On what terms the requests of a layer are sent again, whatever their protocol.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) name: Cow<'static, str>,
    pub(super) budget: Arc<Budget>,
    pub(super) counts_requests: bool,
    pub(super) backoff: Backoff,
    /// The longest wait that the other side may ask for.
    pub(super) cap: Duration,
}

/// Why a failure is passed on although it was one to try again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// All attempts were made.
    Attempts,
    /// The body was read and not kept.
    Body,
    /// The other side asked for silence, or for a longer wait than is allowed.
    Pushback,
    /// The wait would end after the deadline.
    Deadline,
    /// The budget has nothing left.
    Budget,
}

impl Terms {
    pub(super) fn count_request(&self) {
        if self.counts_requests {
            self.budget.deposit(clock::now());
        }
    }

    /// The wait before the attempt that follows the first `made`, and the retry that the budget granted for it.
    pub(super) fn ask(
        &self,
        made: u32,
        cause: Cause,
        after: Duration,
        deadline: Option<Instant>,
    ) -> Result<(Duration, Granted), GaveUp> {
        if after > self.cap {
            return Err(GaveUp::Pushback);
        }
        // Drawn anew each time: a generator that is cloned along with a service makes all clones wait alike.
        let wait = after.saturating_add(self.backoff.delay(made - 1, fastrand::u64(..)));
        let at = clock::now();
        if deadline.is_some_and(|deadline| deadline.saturating_duration_since(at) <= wait) {
            return Err(GaveUp::Deadline);
        }
        // The budget comes last: what is refused for another reason must not cost a retry that others could use.
        if !self.budget.withdraw(at) {
            return Err(GaveUp::Budget);
        }
        report::waits(&self.name, made, cause, wait);
        let budget = Some(Arc::clone(&self.budget));
        Ok((wait, Granted { budget, at, cause }))
    }

    pub(super) fn give_up(&self, reason: GaveUp) {
        report::gave_up(&self.name, reason);
    }
}

/// A retry taken out of the budget. Goes back when dropped without having been sent.
#[derive(Debug)]
pub(super) struct Granted {
    budget: Option<Arc<Budget>>,
    at: Instant,
    cause: Cause,
}

impl Granted {
    pub(super) fn sent(mut self, terms: &Terms) {
        self.budget = None;
        report::retried(&terms.name, self.cause);
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.refund(self.at);
        }
    }
}
