use std::time::{Duration, Instant};

use super::Priority;
use crate::config::ConfigError;
use crate::sync::{AtomicU64, Ordering};

const BUCKETS: usize = 12;
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const TICK_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// The numbers of a [`Throttle`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThrottleConfig {
    /// How many requests go out for each that is accepted, the K of the book. Default 2: the server sees up to twice what it
    /// accepts, so that it notices at once when it can take more. From 1.
    pub multiplier: f64,
    /// The time over which both are counted. Default 2 min. From 1 s to an hour.
    pub window: Duration,
    /// The most that is refused here, as a ratio. Default 0.99: one in a hundred always goes out. With the book's rule alone, an
    /// outage of more than a window ends with one probe per window, and recovery takes many windows.
    pub max_reject_ratio: f64,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self {
            multiplier: 2.0,
            window: Duration::from_secs(120),
            max_reject_ratio: 0.99,
        }
    }
}

impl ThrottleConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Not a number is within no range.
        if !(1.0..=1_000.0).contains(&self.multiplier) {
            return Err(ConfigError::new(
                "throttle.multiplier",
                self.multiplier,
                "must be within 1.0..=1000.0",
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.window) {
            return Err(ConfigError::new(
                "throttle.window",
                format_args!("{:?}", self.window),
                "must be from 1s to 1h",
            ));
        }
        if !(0.0..=1.0).contains(&self.max_reject_ratio) {
            return Err(ConfigError::new(
                "throttle.max_reject_ratio",
                self.max_reject_ratio,
                "must be within 0.0..=1.0",
            ));
        }
        Ok(())
    }
}

/// What a [`Throttle`] has counted for one priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThrottleSnapshot {
    /// Requests of the last window that have ended, those refused here included.
    pub requests: u64,
    /// Those among them that the server accepted.
    pub accepts: u64,
    /// The ratio of requests that is refused here now.
    pub reject_ratio: f64,
}

/// Refuses in the client what the server would refuse anyway.
///
/// A server that is far beyond its capacity can spend all of it on saying no. Each client therefore counts how much of what it
/// asks is accepted, and refuses by itself with the probability (Google's SRE book, "Handling Overload", client-side throttling)
///
/// ```text
/// max(0, (requests - multiplier * accepts) / (requests + 1))
/// ```
///
/// over a sliding window of twelve buckets, for each [`Priority`] by itself: a server that refuses batch jobs and serves
/// checkouts gets fewer batch jobs. Lock-free: a bucket is one word.
///
/// One difference to the book: a request counts when its end is known, and not when it begins. Counted at its
/// beginning, a burst of the first thousand requests would be refused before the first of them is answered.
#[derive(Debug)]
pub struct Throttle {
    multiplier: f64,
    max_reject_ratio: f64,
    origin: Instant,
    bucket_nanos: u128,
    counts: [[AtomicU64; BUCKETS]; 3],
}

impl Throttle {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn new(config: ThrottleConfig, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            multiplier: config.multiplier,
            max_reject_ratio: config.max_reject_ratio,
            origin: now,
            bucket_nanos: config.window.as_nanos() / BUCKETS as u128,
            counts: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        })
    }

    /// Whether a request may go out. `random` draws from 0.0..1.0 and is asked only when something is to be refused. A request
    /// that is refused here is counted by this; one that goes out counts with [`record`](Self::record).
    #[must_use = "a refused request must not be sent"]
    pub fn admit(&self, priority: Priority, now: Instant, random: impl FnOnce() -> f64) -> bool {
        let ratio = self.snapshot(priority, now).reject_ratio;
        if ratio <= 0.0 || random() >= ratio {
            return true;
        }
        self.record(priority, false, now);
        false
    }

    /// A request has ended: the server accepted it, or refused it because it has too much to do.
    pub fn record(&self, priority: Priority, accepted: bool, now: Instant) {
        let tick = self.tick(now);
        let bucket = &self.counts[priority.index()][slot(tick)];
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (at, mut requests, mut accepts) = unpack(word);
            if at != tick {
                if newer(at, tick) {
                    return None;
                }
                (requests, accepts) = (0, 0);
            }
            if requests == COUNT_MAX {
                // Keeps the ratio, which is all that matters.
                (requests, accepts) = (requests / 2, accepts / 2);
            }
            Some(pack(tick, requests + 1, accepts + u64::from(accepted)))
        });
    }

    /// What is counted, and what follows from it.
    #[must_use]
    pub fn snapshot(&self, priority: Priority, now: Instant) -> ThrottleSnapshot {
        let tick = self.tick(now);
        let (mut requests, mut accepts) = (0, 0);
        for word in &self.counts[priority.index()] {
            let (at, of_requests, of_accepts) = unpack(word.load(Ordering::Relaxed));
            if tick.wrapping_sub(at) & TICK_MASK < BUCKETS as u64 {
                requests += of_requests;
                accepts += of_accepts;
            }
        }
        let excess = self.multiplier.mul_add(-(accepts as f64), requests as f64);
        let ratio = (excess / (requests as f64 + 1.0)).max(0.0);
        ThrottleSnapshot {
            requests,
            accepts,
            reject_ratio: ratio.min(self.max_reject_ratio),
        }
    }

    // From one window on, so that an untouched word is of no tick that counts.
    fn tick(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        (elapsed / self.bucket_nanos + BUCKETS as u128) as u64 & TICK_MASK
    }
}

const fn slot(tick: u64) -> usize {
    tick as usize % BUCKETS
}

/// Whether a bucket belongs to a tick after this one, which a clock that lagged has read.
const fn newer(at: u64, tick: u64) -> bool {
    let ahead = at.wrapping_sub(tick) & TICK_MASK;
    ahead != 0 && ahead < BUCKETS as u64 * 2
}

const fn pack(tick: u64, requests: u64, accepts: u64) -> u64 {
    tick << (2 * COUNT_BITS) | requests << COUNT_BITS | accepts
}

const fn unpack(word: u64) -> (u64, u64, u64) {
    (
        word >> (2 * COUNT_BITS),
        word >> COUNT_BITS & COUNT_MAX,
        word & COUNT_MAX,
    )
}
