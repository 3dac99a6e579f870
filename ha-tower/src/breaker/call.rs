use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ha_core::breaker::{Breaker, Outcome, Permit, State};
use pin_project_lite::pin_project;

use super::Classify;
use super::handle::Shared;
use crate::balance::Verdict;
use crate::clock;

/// Takes the outcome of an admitted call that took `took`, if that was measured, and returns the new state if it changed.
#[inline]
pub(crate) fn settle(
    breaker: &Breaker,
    permit: Permit,
    outcome: Outcome,
    took: Option<Duration>,
    now: impl FnOnce() -> Instant,
) -> Option<State> {
    // Only what is no quick success opens it, and needs the spread.
    match (took, outcome) {
        (Some(took), _) => breaker.record_timed(permit, outcome, took, now(), fastrand::f64()),
        (None, Outcome::Success) => breaker.succeed(permit, now),
        (None, _) => breaker.record(permit, outcome, now(), fastrand::f64()),
    }
}

/// Takes back the permit of a call that nobody waits for any more. If that took long enough to be slow, it was.
pub(crate) fn abandon(
    breaker: &Breaker,
    permit: Permit,
    took: Option<Duration>,
    now: impl FnOnce() -> Instant,
) -> Option<State> {
    match (took, breaker.slow_after()) {
        (Some(took), Some(slow)) if took > slow => {
            breaker.record_timed(permit, Outcome::Success, took, now(), fastrand::f64())
        }
        _ => {
            breaker.release(permit);
            None
        }
    }
}

/// A permit that goes back when it is dropped without an outcome.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    permit: Option<Permit>,
    // None where slow calls do not count.
    started: Option<Instant>,
}

impl Ticket {
    #[inline]
    pub(super) fn new(shared: Arc<Shared>, permit: Permit) -> Self {
        if permit.is_first_probe() {
            shared.changed(State::HalfOpen);
        }
        Self {
            started: shared.breaker.slow_after().map(|_| clock::now()),
            permit: Some(permit),
            shared,
        }
    }

    #[inline]
    pub(super) fn settle(&mut self, verdict: &Verdict) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let shared = &*self.shared;
        let outcome = match verdict.outcome {
            Some(outcome) => outcome,
            None if verdict.pushed_back && permit.is_probe() => Outcome::Success,
            None => return shared.breaker.release(permit),
        };
        #[cfg(feature = "metrics")]
        super::metrics::failed(&shared.listeners.name, outcome);
        let changed = match self.started {
            None => settle(&shared.breaker, permit, outcome, None, clock::now),
            Some(started) => {
                let now = clock::now();
                let took = now.saturating_duration_since(started);
                settle(&shared.breaker, permit, outcome, Some(took), || now)
            }
        };
        if let Some(state) = changed {
            shared.changed(state);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let took = self
            .started
            .map(|started| clock::now().saturating_duration_since(started));
        let changed = abandon(&self.shared.breaker, permit, took, clock::now);
        if let Some(state) = changed {
            self.shared.changed(state);
        }
    }
}

pin_project! {
    /// A call that was let through, until its end is known.
    #[derive(Debug)]
    pub(super) struct Call<F, C> {
        #[pin]
        future: F,
        ticket: Ticket,
        classify: C,
    }
}

impl<F, C> Call<F, C> {
    pub(super) fn new(future: F, ticket: Ticket, classify: C) -> Self {
        Self {
            future,
            ticket,
            classify,
        }
    }
}

impl<F, C, Res, E> Future for Call<F, C>
where
    F: Future<Output = Result<Res, E>>,
    C: Classify<Res, E>,
{
    type Output = Result<Res, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        this.ticket.settle(&this.classify.classify(result.as_ref()));
        Poll::Ready(result)
    }
}
