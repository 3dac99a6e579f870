use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_core::breaker::{Outcome, Permit};
use ha_core::endpoint::EndpointKey;
use ha_core::outlier;

use super::State;
use super::fleet::Lane;
use super::pick::{Choice, Slot};
use super::protocol::Verdict;
use crate::breaker::{abandon, settle};
use crate::clock::{self, Moment};

/// A request that is in flight at an endpoint, until this is dropped.
pub struct InFlight {
    state: Arc<State>,
    // Where the load is bounded: whose count of all requests this is a part of.
    lane: Option<Arc<Lane>>,
    // How long the head of its answer took, where the breaker counts slow calls.
    took: Option<Duration>,
    // Of a closed breaker, where the head has not told how it counts.
    permit: Option<Permit>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InFlight").field(&self.state.key).finish()
    }
}

impl InFlight {
    /// The answer broke off after its head was good: counts against the endpoint.
    pub fn broke_off(&self) {
        self.state.load.penalize(None, clock::now());
        self.state.count(outlier::Outcome::Failure);
    }

    /// The answer has ended, and this is how it counts after a head that was [provisional](Verdict::provisional).
    pub fn ended(mut self, verdict: &Verdict) {
        let (permit, took) = (self.permit.take(), self.took);
        let (state, now) = (&*self.state, Moment::default());
        charge(state, verdict, &now);
        let (Some(outcome), Some(breaker)) = (verdict.outcome, state.breaker()) else {
            return;
        };
        // That of a probe was given back with the head: an answer that streams for an hour must not keep the place for itself.
        let again = || breaker.try_admit_with(|| now.get()).ok();
        if let Some(permit) = permit.or_else(again) {
            take_outcome(state, permit, outcome, took, &now);
        }
    }
}

impl InFlight {
    pub(super) fn key(&self) -> &EndpointKey {
        &self.state.key
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.state.load.finish();
        if let Some(lane) = &self.lane {
            lane.in_flight.release();
        }
    }
}

/// One attempt between its pick and its outcome. Dropped before the outcome, it gives everything back. The default is none at all.
#[derive(Debug, Default)]
pub(super) struct Flight {
    // Apart from each other: read as one right after they were written as two, they make the reader wait.
    state: Option<Arc<State>>,
    lane: Option<Arc<Lane>>,
    permit: Slot,
    // None when nobody wants to know how long it takes.
    started: Option<Instant>,
}

impl Flight {
    /// Where the pick puts the permit.
    pub(super) fn slot(&mut self) -> &mut Slot {
        &mut self.permit
    }

    #[inline]
    pub(super) fn start(
        &mut self,
        state: &Arc<State>,
        lane: &Arc<Lane>,
        choice: Choice,
        started: Option<Instant>,
    ) {
        if !choice.has_place() {
            state.load.start();
        }
        if let Some(now) = started {
            state.load.picked(now);
        }
        self.started = started;
        if choice.has_place() {
            self.lane = Some(lane.clone());
        }
        self.state = Some(state.clone());
    }

    pub(super) fn key(&self) -> Option<&EndpointKey> {
        self.state.as_ref().map(|state| &state.key)
    }

    /// Takes the outcome, and returns what holds the request in flight.
    ///
    /// # Panics
    /// When it was taken before.
    #[inline]
    pub(super) fn finish(&mut self, verdict: &Verdict) -> InFlight {
        // Gone before anything can panic, so that what is left is dropped without asking the breaker again.
        let mut permit = self.permit.take();
        let took = match &self.state {
            Some(state) => settle_all(state, &mut permit, verdict, self.started),
            None => None,
        };
        let Some(state) = self.state.take() else {
            panic!("response future polled after completion")
        };
        InFlight {
            state,
            lane: self.lane.take(),
            took,
            permit,
        }
    }
}

/// Tells everybody how it ended, and says how long it took if the breaker wants to hear it again. The permit stays if it is to
/// be used then.
#[inline]
fn settle_all(
    state: &State,
    permit: &mut Option<Permit>,
    verdict: &Verdict,
    started: Option<Instant>,
) -> Option<Duration> {
    let now = Moment::default();
    charge(state, verdict, &now);
    let mut took = None;
    if let Some(started) = started {
        measure(state, verdict, started, &now);
        if state.times_calls() {
            took = Some(now.get().saturating_duration_since(started));
        }
    }
    let kept = |permit: &mut Permit| verdict.provisional && !permit.is_probe();
    if let Some(permit) = permit.take_if(|permit| !kept(permit)) {
        give_back(state, permit, verdict, took, &now);
    }
    took
}

#[inline]
fn give_back(
    state: &State,
    permit: Permit,
    verdict: &Verdict,
    took: Option<Duration>,
    now: &Moment,
) {
    match verdict.outcome {
        Some(outcome) if !verdict.provisional => take_outcome(state, permit, outcome, took, now),
        None if verdict.pushed_back && permit.is_probe() => {
            take_outcome(state, permit, Outcome::Success, took, now);
        }
        None if verdict.unanswered => abandoned(state, permit, took, now),
        _ => {
            if let Some(breaker) = state.breaker() {
                breaker.release(permit);
            }
        }
    }
}

#[cold]
fn abandoned(state: &State, permit: Permit, took: Option<Duration>, now: &Moment) {
    if let Some(breaker) = state.breaker()
        && let Some(changed) = abandon(breaker, permit, took, || now.get())
    {
        state.breaker_changed(changed);
    }
}

#[inline]
fn measure(state: &State, verdict: &Verdict, started: Instant, now: &Moment) {
    let elapsed = || now.get().saturating_duration_since(started);
    if verdict.outcome == Some(Outcome::Success) {
        state.load.record(elapsed(), now.get());
    }
    if verdict.unanswered {
        state.load.record_unanswered(elapsed(), now.get());
    }
}

/// Tells the load, the ejector and the endpoint itself what the verdict says.
#[inline]
fn charge(state: &State, verdict: &Verdict, now: &Moment) {
    let failed = !matches!(verdict.outcome, None | Some(Outcome::Success));
    if failed || verdict.pushed_back {
        state.load.penalize(verdict.retry_after, now.get());
    }
    if let Some(outcome) = verdict.counts() {
        state.count(outcome);
    }
    if verdict.draining {
        state.leave(now.get());
    }
}

#[inline]
fn take_outcome(
    state: &State,
    permit: Permit,
    outcome: Outcome,
    took: Option<Duration>,
    now: &Moment,
) {
    if let Some(breaker) = state.breaker()
        && let Some(changed) = settle(breaker, permit, outcome, took, || now.get())
    {
        state.breaker_changed(changed);
    }
}

impl Drop for Flight {
    #[inline]
    fn drop(&mut self) {
        if self.state.is_some() {
            let unanswered = Verdict::neutral().unanswered();
            drop(self.finish(&unanswered));
        }
    }
}
