use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use ha_core::breaker::{Breaker, Outcome, Permit};
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::load::PeakEwma;
use tokio::sync::Notify;

use super::protocol::Verdict;
use crate::breaker::settle;
use crate::clock::{self, Moment};

/// What the endpoints of one balancer share: whether something changed that the panic rule depends on.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(super) dirty: AtomicBool,
    pub(crate) notify: Notify,
}

impl Changes {
    pub(super) fn mark(&self) {
        self.dirty.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// What is learned about one endpoint. Belongs to its key and outlives a re-discovery.
// Among thousands of endpoints the cost of a pick is its cache misses: in this order and alignment all that a look at a candidate
// reads is one line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct State {
    pub(crate) load: PeakEwma,
    health: AtomicU8,
    pub(crate) breaker: Breaker,
    pub(crate) key: EndpointKey,
    changes: Arc<Changes>,
}

const AVAILABLE: u8 = 0b1000;

impl State {
    pub(super) fn new(
        key: EndpointKey,
        breaker: Breaker,
        load: PeakEwma,
        available: bool,
        changes: Arc<Changes>,
    ) -> Self {
        Self {
            load,
            health: AtomicU8::new(if available { AVAILABLE } else { 0 }),
            breaker,
            key,
            changes,
        }
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.health.load(Ordering::Relaxed) & AVAILABLE != 0
    }

    pub(crate) fn health(&self) -> health::State {
        match self.health.load(Ordering::Relaxed) & !AVAILABLE {
            1 => health::State::Passing,
            2 => health::State::Failing,
            3 => health::State::Draining,
            4 => health::State::RegionSick,
            _ => health::State::Unchecked,
        }
    }

    pub(crate) fn set_health(&self, state: health::State, available: bool) {
        let code = match state {
            health::State::Passing => 1,
            health::State::Failing => 2,
            health::State::Draining => 3,
            health::State::RegionSick => 4,
            _ => 0,
        };
        let available = if available { AVAILABLE } else { 0 };
        self.health.store(code | available, Ordering::Relaxed);
        self.changes.mark();
    }

    pub(crate) fn is_available(&self, now: Instant) -> bool {
        self.is_healthy() && self.breaker.would_admit(now)
    }

    /// Adds to the cost what the verdict asks for.
    fn charge(&self, verdict: &Verdict, now: &Moment) {
        let failed = !matches!(verdict.outcome, None | Some(Outcome::Success));
        if failed || verdict.pushed_back {
            self.load.penalize(verdict.retry_after, now.get());
        }
    }

    fn settle(&self, permit: Permit, outcome: Outcome, now: &Moment) {
        let changed = settle(&self.breaker, permit, outcome, || now.get());
        if let Some(state) = changed {
            tracing::info!(endpoint = %self.key, ?state, "circuit breaker changed");
            self.changes.mark();
        }
    }
}

/// A request that is in flight at an endpoint, until this is dropped.
pub struct InFlight(Arc<State>);

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InFlight").field(&self.0.key).finish()
    }
}

impl InFlight {
    /// The answer broke off after its head was good: counts against the endpoint.
    pub fn broke_off(&self) {
        self.0.load.penalize(None, clock::now());
    }

    /// The answer has ended, and this is how it counts after a head that was [provisional](Verdict::provisional).
    pub fn ended(&self, verdict: &Verdict) {
        let (state, now) = (&self.0, Moment::default());
        state.charge(verdict, &now);
        // The permit was given back with the head: an answer that streams for an hour must not keep a probe for itself.
        if let Some(outcome) = verdict.outcome
            && let Ok(permit) = state.breaker.try_admit_with(|| now.get())
        {
            state.settle(permit, outcome, &now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load.finish();
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
        permit: Option<Permit>,
        started: Option<Instant>,
    ) -> Self {
        state.load.start();
        if let Some(now) = started {
            state.load.picked(now);
        }
        Self {
            in_flight: Some(InFlight(state.clone())),
            permit,
            started,
        }
    }

    pub(super) fn key(&self) -> Option<&EndpointKey> {
        self.in_flight.as_ref().map(|flight| &flight.0.key)
    }

    /// Takes the outcome, and returns what holds the request in flight.
    pub(super) fn finish(&mut self, verdict: &Verdict) -> Option<InFlight> {
        let in_flight = self.in_flight.take()?;
        let state = &in_flight.0;
        let now = Moment::default();
        self.measure(state, verdict, &now);
        match (verdict.outcome, self.permit.take()) {
            (Some(outcome), Some(permit)) if !verdict.provisional => {
                state.settle(permit, outcome, &now);
            }
            (None, Some(permit)) if verdict.pushed_back && permit.is_probe() => {
                state.settle(permit, Outcome::Success, &now);
            }
            (_, Some(permit)) => state.breaker.release(permit),
            (_, None) => {}
        }
        Some(in_flight)
    }

    fn measure(&self, state: &State, verdict: &Verdict, now: &Moment) {
        state.charge(verdict, now);
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

impl Drop for Flight {
    fn drop(&mut self) {
        let unanswered = Verdict::neutral().unanswered();
        drop(self.finish(&unanswered));
    }
}
