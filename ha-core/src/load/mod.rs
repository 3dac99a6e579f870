//! How costly the next request to an endpoint is likely to be.
//!
//! Peak-EWMA, after Finagle: an estimate of latency that jumps up at once and comes down slowly, times the requests
//! that are in flight there. A sample above the estimate replaces it; else the estimate becomes
//! `est·e^(-dt/τ) + sample·(1 - e^(-dt/τ))`.
//!
//! Two things differ from the usual implementations. A read computes the decay up to now without storing it, so that
//! an endpoint that is not picked any more looks better as time passes and is picked again. And failures do not enter the
//! estimate, where a fast error would attract traffic and a large penalty would take more than a minute to fade: they
//! feed a penalty of their own with a shorter memory, which is *added* to the cost.
//!
//! And an endpoint that recovers is not held to its past for long. A latency that was a hundred times as high takes `4.6 τ` to fade,
//! which is 46 s: after three seconds without one sample of at least half the estimate, the estimate becomes the highest of
//! those three seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::ConfigError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The numbers of the estimate.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// How long the estimate remembers (τ). Default 10 s.
    pub decay: Duration,
    /// What one failure adds to the cost at once, and the most that failures add together unless the endpoint asks for
    /// more. Default 5 s: above any usual latency times requests in flight.
    pub penalty: Duration,
    /// How long the penalty remembers (τ). Default 1 s: 5 s fade to 1 ms in 8.5 s, and what is less than that is nothing.
    pub penalty_decay: Duration,
    /// The estimate of an endpoint without history while its first requests are pending. Default 1 s: enough not to
    /// send all traffic to a newcomer that may be frozen.
    pub unknown: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            penalty: Duration::from_secs(5),
            penalty_decay: Duration::from_secs(1),
            unknown: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::positive("load.decay", self.decay)?;
        ConfigError::positive("load.penalty", self.penalty)?;
        ConfigError::positive("load.penalty_decay", self.penalty_decay)?;
        ConfigError::positive("load.unknown", self.unknown)
    }
}

/// The most that an endpoint may ask for by `Retry-After`.
pub const LONGEST_PENALTY: Duration = Duration::from_secs(300);

// One unit of the stamp in a packed word: 16 µs. 32 bits of it wrap after 19 hours, and an endpoint whose last sample
// is that old has nothing to remember anyway.
const STAMP_SHIFT: u32 = 14;
// An endpoint that loses every comparison is picked this often all the same: each second.
const PROBE_EVERY: u32 = 1_000_000_000 >> STAMP_SHIFT;
// This long without a sample near the estimate, and the estimate is of the past: three seconds.
const CALM: u32 = 3 * PROBE_EVERY;
// A penalty that has faded to a millisecond is over: however small, it would decide between endpoints that are alike.
const PENALTY_OVER: f32 = 1e6;
// But it rests for this many times its latency: a caller that waits for each answer must not spend its time on probes.
const PROBE_REST: f32 = 20.0;

/// A value that decays, with the time of its last change, in one word: no reader sees the one without the other.
#[derive(Debug)]
struct Decaying(AtomicU64);

// Nanoseconds as f32 (24 bits of precision are plenty for an estimate) beside the stamp; all zero is "never set".
fn pack(value: f32, stamp: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

impl Decaying {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn is_set(word: u64) -> bool {
        word >> 32 != 0
    }

    fn was_set(&self) -> bool {
        Self::is_set(self.0.load(Ordering::Relaxed))
    }

    /// The value decayed to `stamp`, or none when it was never set.
    fn read(&self, stamp: u32, rate: f32) -> Option<f32> {
        let word = self.0.load(Ordering::Relaxed);
        Self::is_set(word).then(|| {
            let (value, then) = unpack(word);
            value * kept(then, stamp, rate)
        })
    }

    /// Applies `next(decayed value, share kept)` and stamps it.
    fn update(&self, stamp: u32, rate: f32, next: impl Fn(Option<f32>, f32) -> f32) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (value, then) = unpack(word);
            let (old, share, stamp) = if Self::is_set(word) {
                // A stamp never goes back: a late thread would count time twice.
                let stamp = if elapsed(then, stamp) == 0 {
                    then
                } else {
                    stamp
                };
                let share = kept(then, stamp, rate);
                (Some(value * share), share, stamp)
            } else {
                (None, 0.0, stamp)
            };
            // Zero would read as "never set".
            let new = pack(next(old, share).clamp(f32::MIN_POSITIVE, 1e18), stamp);
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }
}

/// Units from `then` to `now`, 0 when `now` is before it.
fn elapsed(then: u32, now: u32) -> u32 {
    let units = now.wrapping_sub(then);
    // Threads read their clocks in another order than they come here: within a second that is the past.
    if units > u32::MAX - (1_000_000_000 >> STAMP_SHIFT) {
        0
    } else {
        units
    }
}

/// The share that is left: `e^(-dt/τ)`, where `rate` is one unit over τ.
fn kept(then: u32, now: u32, rate: f32) -> f32 {
    let x = elapsed(then, now) as f32 * rate;
    // Of an endpoint that is busy the exponent is small, and then three terms of the series are right to five digits.
    if x < 1.0 / 32.0 {
        1.0 - x * (1.0 - x * 0.5)
    } else {
        (-x).exp()
    }
}

/// The load of one endpoint: requests in flight, latency estimate and failure penalty. Shared by reference, without locks.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ha_core::load::{Config, PeakEwma};
///
/// let now = Instant::now();
/// let load = PeakEwma::new(Config::default(), now)?;
/// load.start();
/// load.record(Duration::from_millis(20), now);
/// load.finish();
/// assert_eq!(load.estimate(now).as_millis(), 20);
/// // Nothing was sent for a while: the next look is kinder.
/// assert!(load.estimate(now + Duration::from_secs(10)) < Duration::from_millis(8));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
// Half a cache line: what a pick among thousands costs is the lines that it touches.
#[derive(Debug)]
#[repr(C)]
pub struct PeakEwma {
    estimate: Decaying,
    penalty: Decaying,
    in_flight: AtomicU32,
    last_pick: AtomicU32,
    numbers: Arc<Numbers>,
    // The highest sample since the last one near the estimate, beside the stamp of the first. Zero when there is none. Last,
    // because no pick reads it.
    calm: AtomicU64,
}

/// A [`Config`] in the units of the hot path. One for all endpoints of a balancer, so that it is always in the cache.
#[derive(Debug)]
struct Numbers {
    epoch: Instant,
    rate: f32,
    penalty_rate: f32,
    penalty_nanos: f32,
    unknown_nanos: f32,
}

impl Numbers {
    fn new(config: &Config, epoch: Instant) -> Self {
        Self {
            epoch,
            rate: rate(config.decay),
            penalty_rate: rate(config.penalty_decay),
            penalty_nanos: config.penalty.as_nanos() as f32,
            unknown_nanos: config.unknown.as_nanos() as f32,
        }
    }
}

fn rate(decay: Duration) -> f32 {
    (1u64 << STAMP_SHIFT) as f32 / decay.as_nanos() as f32
}

impl PeakEwma {
    /// A load without history.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::with(Arc::new(Numbers::new(&config, now))))
    }

    /// Another load without history that shares the numbers of this one. What is compared with each other should be siblings:
    /// they are smaller.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self::with(self.numbers.clone())
    }

    fn with(numbers: Arc<Numbers>) -> Self {
        Self {
            estimate: Decaying::new(),
            penalty: Decaying::new(),
            in_flight: AtomicU32::new(0),
            last_pick: AtomicU32::new(0),
            numbers,
            calm: AtomicU64::new(0),
        }
    }

    /// One more request is in flight.
    pub fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`start`](Self::start), unless `cap` requests are in flight already. Looking and taking are one step.
    #[must_use = "without a place the request must not be sent"]
    pub fn try_start(&self, cap: u32) -> bool {
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < cap).then_some(n + 1)
            })
            .is_ok()
    }

    /// One fewer. Call it once for each [`start`](Self::start).
    pub fn finish(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that it was picked, for [`beats`](Self::beats).
    pub fn picked(&self, now: Instant) {
        self.last_pick.store(self.stamp(now), Ordering::Relaxed);
    }

    /// Whether the next request should rather go to this one than to `other`, its sibling: it costs less, or as much. But one that
    /// loses every time is picked now and then all the same, so that it is noticed when it becomes good again: when nothing is
    /// in flight there, and it was not picked for a second and for twenty times its latency.
    #[must_use]
    pub fn beats(&self, other: &Self, now: Instant) -> bool {
        // Once for both: they count from one epoch.
        let stamp = self.stamp(now);
        let wins = self.cost_at(stamp) <= other.cost_at(stamp);
        let (winner, loser) = if wins { (self, other) } else { (other, self) };
        let probe = loser.is_probe_due(stamp) && !winner.is_probe_due(stamp);
        wins != probe
    }

    fn is_probe_due(&self, stamp: u32) -> bool {
        if self.in_flight() > 0 {
            return false;
        }
        let idle = elapsed(self.last_pick.load(Ordering::Relaxed), stamp);
        let latency = || self.estimate.read(stamp, self.numbers.rate).unwrap_or(0.0);
        let idle_nanos = idle as f32 * (1u32 << STAMP_SHIFT) as f32;
        idle > PROBE_EVERY && idle_nanos > latency() * PROBE_REST
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes the latency of a request that was answered.
    pub fn record(&self, latency: Duration, now: Instant) {
        let sample = nanos(latency);
        let stamp = self.stamp(now);
        let over = self.calm_after(sample, stamp);
        self.estimate
            .update(stamp, self.numbers.rate, |old, share| match old {
                Some(old) if old >= sample => {
                    let blended = old + sample * (1.0 - share);
                    over.map_or(blended, |highest| blended.min(highest))
                }
                _ => sample,
            });
    }

    /// Follows how long samples have been far below the estimate. When that is long enough: the highest of them.
    ///
    /// Threads that come here at once may each miss the other's sample, which is one of many.
    fn calm_after(&self, sample: f32, stamp: u32) -> Option<f32> {
        let estimate = self.estimate.read(stamp, self.numbers.rate)?;
        let word = self.calm.load(Ordering::Relaxed);
        if sample * 2.0 >= estimate {
            if word != 0 {
                self.calm.store(0, Ordering::Relaxed);
            }
            return None;
        }
        if word == 0 {
            self.calm.store(pack(sample, stamp), Ordering::Relaxed);
            return None;
        }
        let (highest, since) = unpack(word);
        if elapsed(since, stamp) >= CALM {
            self.calm.store(0, Ordering::Relaxed);
            return Some(highest.max(sample));
        }
        if sample > highest {
            self.calm.store(pack(sample, since), Ordering::Relaxed);
        }
        None
    }

    /// Takes a request that timed out or was dropped after `elapsed`: it took at least that long, and whatever the
    /// estimate says it was not quick.
    pub fn record_unanswered(&self, elapsed: Duration, now: Instant) {
        let sample = nanos(elapsed);
        self.calm.store(0, Ordering::Relaxed);
        self.estimate
            .update(self.stamp(now), self.numbers.rate, |old, _| {
                old.unwrap_or(0.0).max(sample)
            });
    }

    /// Takes a failure. `retry_after` is what the endpoint asked for, if it did; it counts up to [`LONGEST_PENALTY`].
    pub fn penalize(&self, retry_after: Option<Duration>, now: Instant) {
        let asked = retry_after.unwrap_or_default().min(LONGEST_PENALTY);
        let penalty = self.numbers.penalty_nanos.max(asked.as_nanos() as f32);
        self.penalty
            .update(self.stamp(now), self.numbers.penalty_rate, |old, _| {
                old.unwrap_or(0.0).max(penalty)
            });
    }

    /// The latency estimate, decayed to now. Zero without history.
    #[must_use]
    pub fn estimate(&self, now: Instant) -> Duration {
        let nanos = self
            .estimate
            .read(self.stamp(now), self.numbers.rate)
            .unwrap_or(0.0);
        Duration::from_nanos(nanos as u64)
    }

    /// The failure penalty, decayed to now.
    #[must_use]
    pub fn penalty(&self, now: Instant) -> Duration {
        let nanos = self
            .penalty
            .read(self.stamp(now), self.numbers.penalty_rate)
            .unwrap_or(0.0);
        Duration::from_nanos(nanos as u64)
    }

    /// What the next request would cost: `estimate · (in flight + 1) + penalty`, in nanoseconds.
    #[must_use]
    pub fn cost(&self, now: Instant) -> f64 {
        self.cost_at(self.stamp(now))
    }

    fn cost_at(&self, stamp: u32) -> f64 {
        let in_flight = self.in_flight();
        let estimate = match self.estimate.read(stamp, self.numbers.rate) {
            Some(estimate) => estimate,
            None if in_flight > 0 => self.numbers.unknown_nanos,
            None => 0.0,
        };
        f64::from(estimate) * (f64::from(in_flight) + 1.0) + self.penalty_nanos(stamp)
    }

    /// Whether the next request goes here rather than to `other` when only counts matter. `now` is asked only while one of them has a
    /// penalty.
    #[inline]
    #[must_use]
    pub fn has_fewer(&self, other: &Self, now: impl FnOnce() -> Instant) -> bool {
        if !self.penalty.was_set() && !other.penalty.was_set() {
            return self.in_flight() <= other.in_flight();
        }
        let now = now();
        self.pending_cost(|| now) <= other.pending_cost(|| now)
    }

    /// What the next request would cost when only counts matter: `in flight + 1 + penalty in milliseconds`. `now` is asked
    /// only while there is a penalty.
    #[must_use]
    pub fn pending_cost(&self, now: impl FnOnce() -> Instant) -> f64 {
        let penalty = if self.penalty.was_set() {
            self.penalty_nanos(self.stamp(now())) / 1e6
        } else {
            0.0
        };
        f64::from(self.in_flight()) + 1.0 + penalty
    }

    fn penalty_nanos(&self, stamp: u32) -> f64 {
        self.penalty
            .read(stamp, self.numbers.penalty_rate)
            .filter(|penalty| *penalty >= PENALTY_OVER)
            .map_or(0.0, f64::from)
    }

    fn stamp(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.numbers.epoch);
        // `as_nanos` is 128 bits wide and this is the hot path; seconds beyond 584 years may wrap.
        let nanos = since.as_secs().wrapping_mul(1_000_000_000) + u64::from(since.subsec_nanos());
        (nanos >> STAMP_SHIFT) as u32
    }
}

// `as_nanos` is 128 bits wide, and this is the hot path. Beyond 584 years the longest there is.
fn nanos(duration: Duration) -> f32 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(duration.subsec_nanos())) as f32
}

#[cfg(all(test, ha_loom))]
mod loom;
#[cfg(all(test, not(ha_loom)))]
mod tests;
