mod algorithm;
mod controller;
mod window;

use std::sync::PoisonError;
use std::time::{Duration, Instant};

pub use self::algorithm::{Aimd, Algorithm, Gradient2, Vegas};
use self::controller::Controller;
use self::window::Window;
use crate::config::ConfigError;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// The longest window, unless the shortest is longer.
const LONGEST_WINDOW: Duration = Duration::from_secs(1);

/// The numbers of an [`Adaptive`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveConfig {
    /// By which rule. Default [`Gradient2`].
    pub algorithm: Algorithm,
    /// The limit at first. Default 20.
    pub initial: u32,
    /// The lowest. Default 4: with fewer, one slow request would be a standstill. From 1.
    pub min: u32,
    /// The highest. Default 1,000.
    pub max: u32,
    /// The shortest time over which samples are put together. Default 100 ms; it is twice the mean latency where that is longer, up
    /// to 1 s. From 1 ms to a minute.
    pub window: Duration,
    /// How many samples a window has at least. Default 10.
    pub samples: u32,
    /// The ratio of losses that is no sign of overload. Default 0.05. From 0.0 to below 1.0.
    pub loss_ratio: f64,
    /// How long until the undisturbed latency is measured again, with half of the limit for two windows. Default 30 s, give or take a
    /// quarter. [`Aimd`] does not need it.
    pub probe_interval: Duration,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            initial: 20,
            min: 4,
            max: 1_000,
            window: Duration::from_millis(100),
            samples: 10,
            loss_ratio: 0.05,
            probe_interval: Duration::from_secs(30),
        }
    }
}

impl AdaptiveConfig {
    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.algorithm.validate()?;
        ConfigError::at_least_one("limit.min", self.min)?;
        if !(self.min..=1_000_000).contains(&self.max) {
            let reason = "must be from limit.min to 1000000";
            return Err(ConfigError::new("limit.max", self.max, reason));
        }
        if !(self.min..=self.max).contains(&self.initial) {
            let reason = "must be from limit.min to limit.max";
            return Err(ConfigError::new("limit.initial", self.initial, reason));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.window) {
            let value = format_args!("{:?}", self.window);
            return Err(ConfigError::new(
                "limit.window",
                value,
                "must be from 1ms to 1min",
            ));
        }
        ConfigError::at_least_one("limit.samples", self.samples)?;
        // Not a number is within no range.
        if !(0.0..1.0).contains(&self.loss_ratio) {
            let reason = "must be from 0.0 to below 1.0";
            return Err(ConfigError::new(
                "limit.loss_ratio",
                self.loss_ratio,
                reason,
            ));
        }
        ConfigError::at_most_a_day("limit.probe_interval", self.probe_interval)?;
        if self.probe_interval < self.window.saturating_mul(10) {
            return Err(ConfigError::new(
                "limit.probe_interval",
                format_args!("{:?}", self.probe_interval),
                "must be at least ten times limit.window",
            ));
        }
        Ok(())
    }
}

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// There was an answer after so long.
    Answered(Duration),
    /// It was refused for overload, or came too late to be of use.
    Lost,
    /// The caller went away after so long: the answer would have taken longer. Counts only when that is already more than the mean.
    Abandoned(Duration),
}

/// A limit that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The limit until now.
    pub from: u32,
    /// The limit from now on.
    pub to: u32,
}

/// What an [`Adaptive`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveSnapshot {
    /// The limit now.
    pub limit: u32,
    /// The mean latency of the last window.
    pub latency: Option<Duration>,
    /// The latency that it is compared with: undisturbed ([`Vegas`]), or long-term ([`Gradient2`]).
    pub base_latency: Option<Duration>,
    /// Whether the undisturbed latency is being measured, with fewer requests let in.
    pub probing: bool,
}

/// Finds out how much may be under way at once.
///
/// After Netflix's concurrency-limits (`WindowedLimit` around a limit): samples are put together for a window, and each window makes
/// one step. Adding a sample is lock-free; the lock is tried by whoever ends a window, and never waited for.
///
/// The limit never leaves its bounds, does not rise while less than half of it is in use, and a request that was refused in this
/// process must not be recorded: it says nothing about what is behind.
///
/// A minimum that is only ever lowered is wrong for good once the service behind has become slower, and one taken
/// during overload makes that the norm. So it is measured anew: now and then half of the limit is let in for two windows; what ends in
/// the second has met no queue (the gradient controller of Envoy does the same with fixed numbers).
#[derive(Debug)]
pub struct Adaptive {
    config: AdaptiveConfig,
    origin: Instant,
    window: Window,
    /// When the window may end, in nanoseconds since the origin.
    ends: AtomicU64,
    mean: AtomicU64,
    limit: AtomicU32,
    controller: Mutex<Controller>,
}

impl Adaptive {
    /// At its initial limit.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn new(config: AdaptiveConfig, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            origin: now,
            window: Window::new(),
            ends: AtomicU64::new(nanos(config.window)),
            mean: AtomicU64::new(0),
            limit: AtomicU32::new(config.initial),
            controller: Mutex::new(Controller::new(config, now)),
        })
    }

    /// The limit now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// A request has ended. `in_flight` is how many were under way when it was let in, with itself. `random`, from 0.0..1.0, is asked when a
    /// window ends. Says whether the limit has changed.
    pub fn record(
        &self,
        ending: Ending,
        in_flight: u32,
        now: Instant,
        random: impl FnOnce() -> f64,
    ) -> Option<Change> {
        let samples = match ending {
            Ending::Answered(latency) => self.window.answered(latency, in_flight),
            Ending::Lost => self.window.lost(in_flight),
            Ending::Abandoned(after) if nanos(after) > self.mean.load(Ordering::Relaxed) => {
                self.window.answered(after, in_flight)
            }
            Ending::Abandoned(_) => return None,
        };
        let now_nanos = nanos(now.saturating_duration_since(self.origin));
        if samples < self.config.samples || now_nanos < self.ends.load(Ordering::Relaxed) {
            return None;
        }
        self.close(now, now_nanos, random)
    }

    fn close(&self, now: Instant, now_nanos: u64, random: impl FnOnce() -> f64) -> Option<Change> {
        let mut controller = match self.controller.try_lock() {
            Ok(controller) => controller,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        // Another thread may have ended this window just before.
        if now_nanos < self.ends.load(Ordering::Relaxed) {
            return None;
        }
        let reading = self.window.take();
        controller.close(&reading, now, random().clamp(0.0, 1.0));
        let mean = reading.latency.map_or(0, nanos);
        self.mean.store(mean, Ordering::Relaxed);
        let shortest = nanos(self.config.window);
        let longest = nanos(LONGEST_WINDOW).max(shortest);
        let length = mean.saturating_mul(2).clamp(shortest, longest);
        self.ends
            .store(now_nanos.saturating_add(length), Ordering::Relaxed);
        let to = controller.effective();
        let from = self.limit.swap(to, Ordering::Relaxed);
        (from != to).then_some(Change { from, to })
    }

    /// What is known now.
    #[must_use]
    pub fn snapshot(&self) -> AdaptiveSnapshot {
        let controller = self
            .controller
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mean = self.mean.load(Ordering::Relaxed);
        AdaptiveSnapshot {
            limit: controller.effective(),
            latency: (mean > 0).then_some(Duration::from_nanos(mean)),
            base_latency: controller.base(),
            probing: controller.is_probing(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
