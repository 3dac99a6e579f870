//! A retry budget that is kept exactly.
//!
//! Three attempts per request sound harmless until everything behind fails: then three times the load arrives at what
//! was already overloaded, and with three tiers it is 27 times. A budget ties retries to real traffic instead: in every
//! window, retries are at most a share of the requests plus a small constant that lets quiet clients retry at all.
//!
//! The rule, over the last ten ticks of a tenth of the window each, whenever a retry is granted (that one included):
//!
//! ```text
//! retries <= ratio * requests + reserve_per_second * window
//! ```
//!
//! It holds exactly, whatever the number of threads. Counting a request is one atomic update in a cache line that few
//! threads share. Asking for a retry takes a short lock and adds the counts up: that path runs only when something has
//! already failed, and the lock is what makes "is there room" and "take it" one step, so that a thousand threads that
//! fail at once cannot all see the same last token.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::config::ConfigError;
use crate::sync::{AtomicU64, Mutex, Ordering};

const TICKS: usize = 10;

/// Requests are counted in so many places, so that threads do not wait for each other's cache line.
const SHARDS: usize = if cfg!(ha_loom) { 2 } else { 8 };

/// The size of a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Retries allowed per request, as a ratio of 0.0..=1.0. Default 0.2: an outage adds a fifth to the load, no more.
    pub retry_ratio: f64,
    /// Retries per second that are allowed without any traffic. Default 10, so that a client with one request per
    /// minute can still retry it.
    pub reserve_per_second: f64,
    /// The time over which both sides are counted. Default 10 s: long enough to smooth bursts, short enough that an
    /// hour of good traffic does not pay for a storm. From 1 s, so that the ticks outlast any uptime, to an hour.
    pub window: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry_ratio: 0.2,
            reserve_per_second: 10.0,
            window: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Not a number is within no range.
        if !(0.0..=1.0).contains(&self.retry_ratio) {
            return Err(ConfigError::new(
                "budget.retry_ratio",
                self.retry_ratio,
                "must be within 0.0..=1.0",
            ));
        }
        if !(0.0..f64::INFINITY).contains(&self.reserve_per_second) {
            return Err(ConfigError::new(
                "budget.reserve_per_second",
                self.reserve_per_second,
                "must be a finite number of at least 0",
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.window) {
            return Err(ConfigError::new(
                "budget.window",
                format_args!("{:?}", self.window),
                "must be from 1s to 1h",
            ));
        }
        Ok(())
    }
}

/// Counts requests and retries over a sliding window and says whether one more retry fits.
///
/// Share one budget between everything that sends extra requests to the same place: retries and hedges together.
#[derive(Debug)]
pub struct Budget {
    retry_ratio: f64,
    reserve: f64,
    tick_nanos: u64,
    origin: Instant,
    requests: [Shard; SHARDS],
    retries: Mutex<Retries>,
}

/// Requests per tick: the tick in the upper half, the count in the lower, so that both change together.
// Two lines of 64 bytes: processors fetch them in pairs.
#[repr(align(128))]
#[derive(Debug)]
struct Shard([AtomicU64; TICKS]);

/// Threads take turns in choosing their shard.
#[cfg(not(ha_loom))]
fn shard() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        mine.get()
    })
}

// A model repeats its steps, and numbers given to threads would differ each time: models name their shard.
#[cfg(ha_loom)]
const fn shard() -> usize {
    0
}

#[derive(Debug, Default)]
struct Retries {
    newest: u32,
    per_tick: [u32; TICKS],
}

impl Retries {
    /// Moves to `tick`, forgetting what fell out of the window. A late caller stays at the newest tick seen.
    fn advance(&mut self, tick: u32) -> u32 {
        if tick > self.newest {
            let gone = (tick - self.newest).min(TICKS as u32);
            for step in 0..gone {
                self.per_tick[slot(tick - step)] = 0;
            }
            self.newest = tick;
        }
        self.newest
    }
}

const fn slot(tick: u32) -> usize {
    tick as usize % TICKS
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

const fn pack(tick: u32, count: u32) -> u64 {
    (tick as u64) << 32 | count as u64
}

impl Budget {
    /// An empty budget whose first tick begins at `now`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that is out of range.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::sized(config, now))
    }

    /// The default budget: 20 % of requests plus 10 per second over 10 s.
    #[must_use]
    pub fn standard(now: Instant) -> Self {
        Self::sized(Config::default(), now)
    }

    fn sized(config: Config, now: Instant) -> Self {
        Self {
            retry_ratio: config.retry_ratio,
            reserve: config.reserve_per_second * config.window.as_secs_f64(),
            tick_nanos: nanos(config.window) / TICKS as u64,
            origin: now,
            requests: std::array::from_fn(|_| Shard(std::array::from_fn(|_| AtomicU64::new(0)))),
            retries: Mutex::new(Retries::default()),
        }
    }

    /// Counts a request. Call it once per request, not per attempt.
    pub fn deposit(&self, now: Instant) {
        self.deposit_into(shard(), now);
    }

    fn deposit_into(&self, shard: usize, now: Instant) {
        let tick = self.tick(now);
        let word = &self.requests[shard].0[slot(tick)];
        // Relaxed is enough: the word carries its own tick, and a retry that misses a count is only refused too early.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (at, count) = unpack(word);
            match at.cmp(&tick) {
                std::cmp::Ordering::Equal => Some(pack(tick, count.saturating_add(1))),
                std::cmp::Ordering::Less => Some(pack(tick, 1)),
                std::cmp::Ordering::Greater => None,
            }
        });
    }

    /// Takes one retry out of the budget; false when there is none left, and then nothing has changed.
    #[must_use = "a refused retry must not be sent"]
    pub fn withdraw(&self, now: Instant) -> bool {
        let tick = self.tick(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = retries.advance(tick);
        let spent: u64 = retries.per_tick.iter().copied().map(u64::from).sum();
        let allowed = self
            .retry_ratio
            .mul_add(self.requests_until(tick) as f64, self.reserve);
        // A hair of tolerance, so that 0.2 * 5 is one retry although 0.2 is not a binary fraction.
        let fits = (spent + 1) as f64 <= allowed + 1e-9;
        if fits {
            let taken = &mut retries.per_tick[slot(tick)];
            *taken = taken.saturating_add(1);
        }
        fits
    }

    /// Gives back a retry that was granted at `withdrawn` and then not sent, because its caller went away or it could no
    /// longer be sent. Call it at most once per granted retry.
    ///
    /// A retry that has left the window already changes nothing.
    pub fn refund(&self, withdrawn: Instant) {
        let tick = self.tick(withdrawn);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        // One granted to a clock that lagged was counted at the newest tick; then it stays counted, which errs on the
        // side of too few retries.
        if tick <= retries.newest && retries.newest - tick < TICKS as u32 {
            let taken = &mut retries.per_tick[slot(tick)];
            *taken = taken.saturating_sub(1);
        }
    }

    fn requests_until(&self, tick: u32) -> u64 {
        let live = |at: u32| at <= tick && tick - at < TICKS as u32;
        self.requests
            .iter()
            .flat_map(|shard| &shard.0)
            .map(|word| unpack(word.load(Ordering::Relaxed)))
            .filter(|(at, _)| live(*at))
            .map(|(_, count)| u64::from(count))
            .sum()
    }

    fn tick(&self, now: Instant) -> u32 {
        let elapsed = nanos(now.saturating_duration_since(self.origin));
        u32::try_from(elapsed / self.tick_nanos).unwrap_or(u32::MAX)
    }
}

/// Enough for 584 years; dividing 128 bits takes several times as long as everything else here.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(ha_loom)))]
mod tests;

#[cfg(all(test, ha_loom))]
mod loom;
