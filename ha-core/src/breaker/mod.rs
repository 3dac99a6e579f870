//! Circuit breaker: stop calling what does not answer, and find out cheaply when it does again.
//!
//! Closed, it counts. It opens when at least [`failure_ratio`](Config::failure_ratio) of at least
//! [`minimum_calls`](Config::minimum_calls) calls in the window failed, or after
//! [`consecutive_failures`](Config::consecutive_failures) in a row. Open, it refuses everything for a wait that doubles with
//! each trip in a row and is drawn from a band, so that many clients do not come back in step. After the wait it lets
//! single probes through: [`probes`](Config::probes) successes close it, one failure opens it again for longer.
//!
//! Only a failure is a reason to look at the ratio, so a success never trips. A result that arrives after the breaker has changed its
//! state is not counted: it speaks of the time before.
//!
//! A breaker is shared by reference. While closed, admitting reads one word and recording changes one, without a lock;
//! refusing while open reads one word. [`try_admit_with`](Breaker::try_admit_with) and [`succeed`](Breaker::succeed) spare a
//! caller its clock reads while all is well.

mod config;
mod window;

#[cfg(test)]
mod tests;

pub use config::Config;

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::config::ConfigError;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};
use window::{Window, nanos};

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

/// Leave to make one call. Give it back with [`Breaker::record`] or, when the call had no outcome,
/// [`Breaker::release`]: a probe that is never given back blocks the next one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe that is never given back blocks the next one"]
pub struct Permit(NonZeroU64);

impl Permit {
    // A gate that lets a call through has this bit. So a permit is never zero, and one that may be missing is no larger.
    fn of(gate: u64) -> Self {
        Self(NonZeroU64::MIN | gate)
    }

    fn gate(&self) -> u64 {
        self.0.get()
    }

    /// Whether this call decides if the breaker closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.gate() & TAG == PROBING
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
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Trips since it was last closed.
    pub trips: u32,
}

// The gate is one word: the tag below, and above it a number that depends on it.
const TAG: u64 = 0b11;
/// Above it: the nanosecond at which a probe may go.
const OPEN: u64 = 0;
/// Above it: the generation, so that a result of an earlier closed time is told apart.
const CLOSED: u64 = 1;
/// No probe is out.
const IDLE: u64 = 2;
/// One is; above it: its number.
const PROBING: u64 = 3;
const FOREVER: u64 = u64::MAX >> 2;

/// Successes that [`Breaker::succeed`] puts into the window at once.
const BATCH: u32 = 16;

/// A circuit breaker. See the [module](self).
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
    gate: AtomicU64,
    consecutive: AtomicU32,
    // Successes that are not in the window yet.
    fresh: AtomicU32,
    epoch: Instant,
    window: Window,
    config: Config,
    slow: Mutex<Slow>,
}

/// What only changes with the state.
#[derive(Debug, Default)]
struct Slow {
    // Of closed times and of probes.
    generation: u64,
    trips: u32,
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
        Ok(Self {
            gate: AtomicU64::new(CLOSED),
            consecutive: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            window: Window::new(config.window),
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
        refuse(self.gate.load(Ordering::Acquire), at)?;
        let mut slow = self.slow();
        // Another thread may have been first.
        let gate = self.gate.load(Ordering::Acquire);
        if gate & TAG == CLOSED {
            return Ok(Permit::of(gate));
        }
        refuse(gate, at)?;
        if gate & TAG == OPEN {
            slow.passed = 0;
        }
        slow.generation += 1;
        let probe = slow.generation << 2 | PROBING;
        self.gate.store(probe, Ordering::Release);
        Ok(Permit::of(probe))
    }

    /// Whether [`try_admit`](Self::try_admit) would let a call through. Changes nothing.
    #[inline]
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        let gate = self.gate.load(Ordering::Acquire);
        gate & TAG == CLOSED || refuse(gate, self.at(now)).is_ok()
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
            return self.record_probe(permit, outcome, now, random);
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
        self.record_failure(permit, outcome, at, random)
    }

    /// Takes a success as [`record`](Self::record) does, but asks for `now` only once in a while, which saves the caller most of
    /// its clock reads: up to 15 successes stay without a time, and count as being in the window however old they are.
    #[inline]
    pub fn succeed(&self, permit: Permit, now: impl FnOnce() -> Instant) -> Option<State> {
        if permit.is_probe() {
            return self.record_probe(permit, Outcome::Success, now(), 0.0);
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
        permit: Permit,
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
        let (calls, failures) = self.counted(at);
        let by_ratio = calls >= u64::from(self.config.minimum_calls)
            && failures as f64 >= calls as f64 * self.config.failure_ratio;
        if in_a_row < self.config.consecutive_failures && !by_ratio {
            return None;
        }
        let mut slow = self.slow();
        if slow.pinned || self.gate.load(Ordering::Acquire) != permit.gate() {
            return None;
        }
        self.open(&mut slow, at, random);
        Some(State::Open)
    }

    #[cold]
    fn record_probe(
        &self,
        permit: Permit,
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
                self.open(&mut slow, self.at(now), random);
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
            OPEN if refuse(gate, self.at(now)).is_err() => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// How long it stays open. None when it is not, or when only a person will close it.
    #[must_use]
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        let refused = refuse(self.gate.load(Ordering::Acquire), self.at(now));
        refused.err().and_then(|rejected| rejected.retry_in)
    }

    /// What it has counted.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let (calls, failures) = self.counted(self.at(now));
        let trips = self.slow().trips;
        Snapshot {
            state: self.state(now),
            calls,
            failures,
            consecutive_failures: self.consecutive.load(Ordering::Relaxed),
            trips,
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

    fn open(&self, slow: &mut Slow, at: u64, random: f64) {
        slow.trips = slow.trips.saturating_add(1);
        let wait = nanos(self.config.open_for(slow.trips, random));
        let until = at.saturating_add(wait).min(FOREVER - 1);
        self.gate.store(until << 2 | OPEN, Ordering::Release);
    }

    fn close(&self, slow: &mut Slow) {
        slow.trips = 0;
        slow.passed = 0;
        slow.generation += 1;
        self.window.clear();
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
}

fn refuse(gate: u64, at: u64) -> Result<(), Rejected> {
    match gate & TAG {
        OPEN if at < gate >> 2 => Err(Rejected {
            retry_in: (gate >> 2 != FOREVER).then(|| Duration::from_nanos((gate >> 2) - at)),
        }),
        PROBING => Err(Rejected { retry_in: None }),
        _ => Ok(()),
    }
}
