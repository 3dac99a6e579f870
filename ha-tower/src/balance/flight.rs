use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ha_core::breaker::{self, Breaker, Outcome, Permit};
use ha_core::config::ConfigError;
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::load::{self, PeakEwma};
use tokio::sync::Notify;

use super::protocol::Verdict;
use crate::clock;

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
// What a pick looks at stands first and together: among thousands of endpoints the cost of a pick is its cache misses.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct State {
    health: AtomicU8,
    last_pick: AtomicU64,
    pub(crate) load: PeakEwma,
    pub(crate) breaker: Breaker,
    epoch: Instant,
    pub(crate) key: EndpointKey,
    changes: Arc<Changes>,
}

const AVAILABLE: u8 = 0b100;
// An endpoint that loses every comparison is picked this often all the same.
const PROBE_EVERY: Duration = Duration::from_secs(1);
// But it rests for this many times its latency: a caller that waits for each answer must not spend its time on probes.
const PROBE_REST: u32 = 20;

impl State {
    pub(super) fn new(
        key: EndpointKey,
        breaker: breaker::Config,
        load: load::Config,
        available: bool,
        changes: Arc<Changes>,
    ) -> Result<Self, ConfigError> {
        let now = clock::now();
        Ok(Self {
            key,
            load: PeakEwma::new(load, now)?,
            breaker: Breaker::new(breaker, now)?,
            health: AtomicU8::new(if available { AVAILABLE } else { 0 }),
            last_pick: AtomicU64::new(0),
            epoch: now,
            changes,
        })
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.health.load(Ordering::Relaxed) & AVAILABLE != 0
    }

    pub(crate) fn health(&self) -> health::State {
        match self.health.load(Ordering::Relaxed) & !AVAILABLE {
            1 => health::State::Passing,
            2 => health::State::Failing,
            _ => health::State::Unchecked,
        }
    }

    pub(crate) fn set_health(&self, state: health::State, available: bool) {
        let code = match state {
            health::State::Passing => 1,
            health::State::Failing => 2,
            _ => 0,
        };
        let available = if available { AVAILABLE } else { 0 };
        self.health.store(code | available, Ordering::Relaxed);
        self.changes.mark();
    }

    pub(crate) fn is_available(&self, now: Instant) -> bool {
        self.is_healthy() && self.breaker.would_admit(now)
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs().wrapping_mul(1_000_000_000) + u64::from(since.subsec_nanos())
    }

    pub(super) fn is_probe_due(&self, now: Instant) -> bool {
        let last = self.last_pick.load(Ordering::Relaxed);
        let idle = Duration::from_nanos(self.since_epoch(now).saturating_sub(last));
        idle > PROBE_EVERY
            && self.load.in_flight() == 0
            && idle > self.load.estimate(now) * PROBE_REST
    }

    fn settle(&self, permit: Option<Permit>, outcome: Outcome, now: Instant) {
        let Some(permit) = permit else { return };
        // The spread is needed only when it opens.
        let random = if outcome == Outcome::Success {
            0.0
        } else {
            fastrand::f64()
        };
        if let Some(state) = self.breaker.record(permit, outcome, now, random) {
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
    started: Instant,
}

impl Flight {
    pub(super) fn start(state: &Arc<State>, permit: Option<Permit>, now: Instant) -> Self {
        state.load.start();
        state
            .last_pick
            .store(state.since_epoch(now), Ordering::Relaxed);
        Self {
            in_flight: Some(InFlight(state.clone())),
            permit,
            started: now,
        }
    }

    pub(super) fn key(&self) -> Option<&EndpointKey> {
        self.in_flight.as_ref().map(|flight| &flight.0.key)
    }

    /// Takes the outcome, and returns what holds the request in flight.
    pub(super) fn finish(&mut self, verdict: &Verdict) -> Option<InFlight> {
        let in_flight = self.in_flight.take()?;
        let state = &in_flight.0;
        let now = clock::now();
        let elapsed = now.saturating_duration_since(self.started);
        let permit = self.permit.take();
        match verdict.outcome {
            Some(Outcome::Success) => state.load.record(elapsed, now),
            Some(_) => state.load.penalize(verdict.retry_after, now),
            None if verdict.pushed_back => state.load.penalize(verdict.retry_after, now),
            None => {}
        }
        if verdict.unanswered {
            state.load.record_unanswered(elapsed, now);
        }
        match (verdict.outcome, permit) {
            (Some(outcome), permit) => state.settle(permit, outcome, now),
            (None, Some(permit)) if verdict.pushed_back && permit.is_probe() => {
                state.settle(Some(permit), Outcome::Success, now);
            }
            (None, Some(permit)) => state.breaker.release(permit),
            (None, None) => {}
        }
        Some(in_flight)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let unanswered = Verdict::neutral().unanswered();
        drop(self.finish(&unanswered));
    }
}
