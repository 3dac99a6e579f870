use std::time::{Duration, Instant};

use super::Config;
use super::types::{Outcome, Permit, Rejected, Snapshot, State, Trip};
use super::window::{Window, nanos};
use crate::config::ConfigError;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};

// The gate is one word: the tag below, and above it a number that depends on it.
pub(super) const TAG: u64 = 0b11;
/// Above it: the nanosecond at which a probe may go.
const OPEN: u64 = 0;
/// Above it: the generation, so that a result of an earlier closed time is told apart.
const CLOSED: u64 = 1;
/// No probe is out.
const IDLE: u64 = 2;
/// One is; above it: its number, and whether it is the first since the breaker was open.
pub(super) const PROBING: u64 = 3;
pub(super) const FIRST: u64 = 1 << 63;
const FOREVER: u64 = u64::MAX >> 2;

/// Successes that [`Breaker::succeed`] puts into the window at once.
pub(super) const BATCH: u32 = 16;

/// A circuit breaker. See the [module](crate::breaker).
///
/// ```
/// use std::time::{Duration, Instant};
/// use ha_core::breaker::{Breaker, Config, Outcome, State};
///
/// let start = Instant::now();
/// let breaker = Breaker::new(Config::default(), start)?;
/// for _ in 0..5 {
///     let permit = breaker.try_admit(start).unwrap();
///     breaker.record(permit, Outcome::Failure, start, 0.0);
/// }
/// assert!(breaker.try_admit(start).is_err());
///
/// let later = start + Duration::from_secs(5);
/// let probe = breaker.try_admit(later).unwrap();
/// assert!(breaker.try_admit(later).is_err(), "one probe at a time");
/// breaker.record(probe, Outcome::Success, later, 0.0);
/// assert_eq!(breaker.state(later), State::HalfOpen);
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
// What the happy path touches stands first and together.
#[derive(Debug)]
#[repr(C)]
pub struct Breaker {
    pub(super) gate: AtomicU64,
    consecutive: AtomicU32,
    // Successes that are not in the window yet.
    fresh: AtomicU32,
    // Above this many nanoseconds a call is slow; the most there are where slow calls do not count.
    slow_after: u64,
    epoch: Instant,
    window: Window,
    // Calls and slow calls, where they count.
    slow_window: Option<Box<Window>>,
    // The nanosecond from which on another probe may go although one is out.
    probe_until: AtomicU64,
    config: Config,
    slow: Mutex<Slow>,
}

/// What only changes with the state.
#[derive(Debug, Default)]
struct Slow {
    // Of closed times and of probes.
    generation: u64,
    trips: u32,
    tripped_by: Option<Trip>,
    passed: u32,
    pinned: bool,
}

impl Breaker {
    /// A closed breaker.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let slow_after = config.slow_calls.as_ref().map(|slow| nanos(slow.threshold));
        Ok(Self {
            gate: AtomicU64::new(CLOSED),
            consecutive: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            slow_after: slow_after.unwrap_or(u64::MAX),
            window: Window::new(config.window),
            slow_window: slow_after.map(|_| Box::new(Window::new(config.window))),
            probe_until: AtomicU64::new(0),
            config,
            epoch: now,
            slow: Mutex::new(Slow::default()),
        })
    }

    /// Asks to make one call.
    ///
    /// # Errors
    /// [`Rejected`] while open, and while half-open with a probe out.
    #[inline]
    pub fn try_admit(&self, now: Instant) -> Result<Permit, Rejected> {
        self.try_admit_with(|| now)
    }

    /// As [`try_admit`](Self::try_admit), but asks for `now` only when it is not closed.
    ///
    /// # Errors
    /// As for [`try_admit`](Self::try_admit).
    #[inline]
    pub fn try_admit_with(&self, now: impl FnOnce() -> Instant) -> Result<Permit, Rejected> {
        let gate = self.gate.load(Ordering::Acquire);
        if gate & TAG == CLOSED {
            return Ok(Permit::of(gate));
        }
        self.try_probe(now())
    }

    #[cold]
    fn try_probe(&self, now: Instant) -> Result<Permit, Rejected> {
        let at = self.at(now);
        // Refusing takes no lock.
        self.refuse(self.gate.load(Ordering::Acquire), at)?;
        let mut slow = self.slow();
        // Another thread may have been first.
        let gate = self.gate.load(Ordering::Acquire);
        if gate & TAG == CLOSED {
            return Ok(Permit::of(gate));
        }
        self.refuse(gate, at)?;
        slow.generation += 1;
        let mut probe = slow.generation << 2 | PROBING;
        if gate & TAG == OPEN {
            slow.passed = 0;
            probe |= FIRST;
        }
        let given_up = at.saturating_add(nanos(self.config.probe_timeout));
        self.probe_until.store(given_up, Ordering::Release);
        self.gate.store(probe, Ordering::Release);
        Ok(Permit::of(probe))
    }

    /// Whether [`try_admit`](Self::try_admit) would let a call through. Changes nothing.
    #[inline]
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        let gate = self.gate.load(Ordering::Acquire);
        gate & TAG == CLOSED || self.refuse(gate, self.at(now)).is_ok()
    }

    /// Whether it is closed: neither open nor waiting for a probe.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.gate.load(Ordering::Acquire) & TAG == CLOSED
    }

    /// Takes the outcome of an admitted call, and returns the new state if it changed. `random` is uniform in
    /// `0.0..1.0` and spreads the wait.
    #[inline]
    pub fn record(
        &self,
        permit: Permit,
        outcome: Outcome,
        now: Instant,
        random: f64,
    ) -> Option<State> {
        if permit.is_probe() {
            return self.record_probe(&permit, outcome, now, random);
        }
        if self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        let at = self.at(now);
        if outcome == Outcome::Success {
            self.window.record(at, 1, 0);
            self.end_row();
            return None;
        }
        self.record_failure(&permit, outcome, at, random)
    }

    /// As [`record`](Self::record), with the time that the call took. Where slow calls count
    /// ([`Config::slow_calls`]) this is how they come to be known, and a slow probe is a failed one. Where they do not, the time is ignored.
    pub fn record_timed(
        &self,
        permit: Permit,
        outcome: Outcome,
        took: Duration,
        now: Instant,
        random: f64,
    ) -> Option<State> {
        let (Some(window), Some(config)) = (&self.slow_window, &self.config.slow_calls) else {
            return self.record(permit, outcome, now, random);
        };
        let slow = took > config.threshold;
        if permit.is_probe() {
            let outcome = if slow { Outcome::Failure } else { outcome };
            return self.record_probe(&permit, outcome, now, random);
        }
        if self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        let at = self.at(now);
        window.record(at, 1, u64::from(slow));
        let changed = if outcome == Outcome::Success {
            self.window.record(at, 1, 0);
            self.end_row();
            None
        } else {
            self.record_failure(&permit, outcome, at, random)
        };
        if changed.is_some() || !slow || !self.is_too_much(window.sum(at), config.ratio) {
            return changed;
        }
        self.trip(&permit, Trip::SlowCallRatio, at, random)
    }

    /// The time above which a call is slow, where slow calls count: only then is it worth measuring.
    #[inline]
    #[must_use]
    pub fn slow_after(&self) -> Option<Duration> {
        (self.slow_after != u64::MAX).then(|| Duration::from_nanos(self.slow_after))
    }

    /// Takes a success as [`record`](Self::record) does, but asks for `now` only once in a while, which saves the caller most of
    /// its clock reads: up to 15 successes stay without a time, and count as being in the window however old they are.
    #[inline]
    pub fn succeed(&self, permit: Permit, now: impl FnOnce() -> Instant) -> Option<State> {
        if permit.is_probe() {
            return self.record_probe(&permit, Outcome::Success, now(), 0.0);
        }
        if self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        self.end_row();
        if (self.fresh.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BATCH) {
            self.stamp_batch(self.at(now()));
        }
        None
    }

    #[cold]
    fn stamp_batch(&self, at: u64) {
        // Counted twice for a moment rather than not at all: a failure meanwhile must not trip it by missing successes.
        self.window.record(at, u64::from(BATCH), 0);
        // It was cleared meanwhile when there are fewer.
        let _ = self
            .fresh
            .fetch_update(Ordering::Release, Ordering::Relaxed, |fresh| {
                Some(fresh.saturating_sub(BATCH))
            });
    }

    fn end_row(&self) {
        // Reading first keeps the line shared between cores while all is well.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    fn counted(&self, at: u64) -> (u64, u64) {
        // Before the window: whoever sees a batch gone from here sees it there.
        let fresh = self.fresh.load(Ordering::Acquire);
        let (calls, failures) = self.window.sum(at);
        (calls + u64::from(fresh), failures)
    }

    #[cold]
    fn record_failure(
        &self,
        permit: &Permit,
        outcome: Outcome,
        at: u64,
        random: f64,
    ) -> Option<State> {
        self.window.record(at, 1, 1);
        let in_a_row = match outcome {
            Outcome::Failure => self
                .consecutive
                .fetch_add(1, Ordering::Relaxed)
                .saturating_add(1),
            _ => 0,
        };
        let why = if in_a_row >= self.config.consecutive_failures {
            Trip::ConsecutiveFailures
        } else if self.is_too_much(self.counted(at), self.config.failure_ratio) {
            Trip::FailureRatio
        } else {
            return None;
        };
        self.trip(permit, why, at, random)
    }

    fn is_too_much(&self, (calls, bad): (u64, u64), ratio: f64) -> bool {
        calls >= u64::from(self.config.minimum_calls) && bad as f64 >= calls as f64 * ratio
    }

    #[cold]
    fn trip(&self, permit: &Permit, why: Trip, at: u64, random: f64) -> Option<State> {
        let mut slow = self.slow();
        if slow.pinned || self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        self.open(&mut slow, why, at, random);
        Some(State::Open)
    }

    #[cold]
    fn record_probe(
        &self,
        permit: &Permit,
        outcome: Outcome,
        now: Instant,
        random: f64,
    ) -> Option<State> {
        let mut slow = self.slow();
        if self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        match outcome {
            Outcome::Success => {
                slow.passed += 1;
                if slow.passed >= self.config.probes {
                    self.close(&mut slow);
                    return Some(State::Closed);
                }
                self.gate.store(IDLE, Ordering::Release);
                None
            }
            Outcome::Overloaded => {
                self.gate.store(IDLE, Ordering::Release);
                None
            }
            Outcome::Failure => {
                self.open(&mut slow, Trip::Probe, self.at(now), random);
                Some(State::Open)
            }
        }
    }

    /// Gives back a permit whose call had no outcome: it was dropped, or turned away before it was sent.
    #[inline]
    pub fn release(&self, permit: Permit) {
        if permit.is_probe() {
            let _slow = self.slow();
            if self.gate.load(Ordering::Acquire) == permit.gate() {
                self.gate.store(IDLE, Ordering::Release);
            }
        }
    }

    /// What it does now. An open breaker whose wait is over is half-open.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        let gate = self.gate.load(Ordering::Acquire);
        match gate & TAG {
            CLOSED => State::Closed,
            OPEN if self.refuse(gate, self.at(now)).is_err() => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// How long it stays open. None when it is not, or when only a person will close it.
    #[must_use]
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        let refused = self.refuse(self.gate.load(Ordering::Acquire), self.at(now));
        refused.err().and_then(|rejected| rejected.retry_in)
    }

    /// What it has counted.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let at = self.at(now);
        let (calls, failures) = self.counted(at);
        let slow_calls = self.slow_window.as_ref().map_or(0, |slow| slow.sum(at).1);
        let slow = self.slow();
        Snapshot {
            state: self.state(now),
            calls,
            failures,
            slow_calls,
            consecutive_failures: self.consecutive.load(Ordering::Relaxed),
            trips: slow.trips,
            tripped_by: slow.tripped_by,
            forced: slow.pinned,
        }
    }

    /// Opens it until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    pub fn force_open(&self) {
        let mut slow = self.slow();
        slow.pinned = true;
        self.gate.store(FOREVER << 2 | OPEN, Ordering::Release);
    }

    /// Closes it and keeps it closed, whatever fails, until [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn force_closed(&self) {
        let mut slow = self.slow();
        self.close(&mut slow);
        slow.pinned = true;
    }

    /// Closes it and forgets what it counted and what was forced.
    pub fn reset(&self) {
        let mut slow = self.slow();
        slow.pinned = false;
        self.close(&mut slow);
    }

    fn open(&self, slow: &mut Slow, why: Trip, at: u64, random: f64) {
        slow.trips = slow.trips.saturating_add(1);
        slow.tripped_by = Some(why);
        let wait = nanos(self.config.open_for(slow.trips, random));
        let until = at.saturating_add(wait).min(FOREVER - 1);
        self.gate.store(until << 2 | OPEN, Ordering::Release);
    }

    fn close(&self, slow: &mut Slow) {
        slow.trips = 0;
        slow.tripped_by = None;
        slow.passed = 0;
        slow.generation += 1;
        self.window.clear();
        if let Some(window) = &self.slow_window {
            window.clear();
        }
        self.fresh.store(0, Ordering::Relaxed);
        self.consecutive.store(0, Ordering::Relaxed);
        self.gate
            .store(slow.generation << 2 | CLOSED, Ordering::Release);
    }

    fn at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        // Nothing panics while it is held, and a breaker that panics because something else did helps nobody.
        self.slow
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn refuse(&self, gate: u64, at: u64) -> Result<(), Rejected> {
        let until = match gate & TAG {
            OPEN => gate >> 2,
            PROBING => self.probe_until.load(Ordering::Acquire),
            _ => return Ok(()),
        };
        if at >= until {
            return Ok(());
        }
        // Nobody knows when a probe comes back.
        let known = gate & TAG == OPEN && until != FOREVER;
        Err(Rejected {
            retry_in: known.then(|| Duration::from_nanos(until - at)),
        })
    }
}
