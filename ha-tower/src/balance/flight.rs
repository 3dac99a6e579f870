use std::sync::Arc;
use std::time::Instant;

use ha_core::breaker::{Outcome, Permit};
use ha_core::endpoint::EndpointKey;
use ha_core::outlier;

use super::State;
use super::fleet::Lane;
use super::pick::Choice;
use super::protocol::Verdict;
use crate::breaker::settle;
use crate::clock::{self, Moment};

/// A request that is in flight at an endpoint, until this is dropped.
pub struct InFlight {
    state: Arc<State>,
    // Where the load is bounded: whose count of all requests this is a part of.
    lane: Option<Arc<Lane>>,
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
    pub fn ended(&self, verdict: &Verdict) {
        let (state, now) = (&*self.state, Moment::default());
        charge(state, verdict, &now);
        // The permit was given back with the head: an answer that streams for an hour must not keep a probe for itself.
        if let Some(outcome) = verdict.outcome
            && let Ok(permit) = state.breaker.try_admit_with(|| now.get())
        {
            take_outcome(state, permit, outcome, &now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.load.finish();
        if let Some(lane) = &self.lane {
            lane.in_flight.release();
        }
    }
}

/// One attempt between its pick and its outcome. Dropped before the outcome, it gives everything back.
#[derive(Debug)]
pub(super) struct Flight {
    in_flight: Option<InFlight>,
    permit: Option<Permit>,
    // None when nobody wants to know how long it takes.
    started: Option<Instant>,
}

impl Flight {
    pub(super) fn start(
        state: &Arc<State>,
        lane: &Arc<Lane>,
        choice: Choice,
        started: Option<Instant>,
    ) -> Self {
        if !choice.has_place {
            state.load.start();
        }
        if let Some(now) = started {
            state.load.picked(now);
        }
        Self {
            in_flight: Some(InFlight {
                state: state.clone(),
                lane: choice.has_place.then(|| lane.clone()),
            }),
            permit: choice.permit,
            started,
        }
    }

    pub(super) fn key(&self) -> Option<&EndpointKey> {
        self.in_flight.as_ref().map(|flight| &flight.state.key)
    }

    /// Takes the outcome, and returns what holds the request in flight.
    pub(super) fn finish(&mut self, verdict: &Verdict) -> Option<InFlight> {
        let in_flight = self.in_flight.take()?;
        let state = &in_flight.state;
        let now = Moment::default();
        self.measure(state, verdict, &now);
        match (verdict.outcome, self.permit.take()) {
            (Some(outcome), Some(permit)) if !verdict.provisional => {
                take_outcome(state, permit, outcome, &now);
            }
            (None, Some(permit)) if verdict.pushed_back && permit.is_probe() => {
                take_outcome(state, permit, Outcome::Success, &now);
            }
            (_, Some(permit)) => state.breaker.release(permit),
            (_, None) => {}
        }
        Some(in_flight)
    }

    fn measure(&self, state: &State, verdict: &Verdict, now: &Moment) {
        charge(state, verdict, now);
        let Some(started) = self.started else {
            return;
        };
        let elapsed = || now.get().saturating_duration_since(started);
        if verdict.outcome == Some(Outcome::Success) {
            state.load.record(elapsed(), now.get());
        }
        if verdict.unanswered {
            state.load.record_unanswered(elapsed(), now.get());
        }
    }
}

/// Tells the load, the ejector and the endpoint itself what the verdict says.
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

fn take_outcome(state: &State, permit: Permit, outcome: Outcome, now: &Moment) {
    if let Some(changed) = settle(&state.breaker, permit, outcome, || now.get()) {
        state.breaker_changed(changed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let unanswered = Verdict::neutral().unanswered();
        drop(self.finish(&unanswered));
    }
}
