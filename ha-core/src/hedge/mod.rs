//! When to send a request a second time while the first is still under way.
//!
//! Of a hundred servers one is always slow: it compacts, collects garbage, or shares its disk. Whoever meets it waits a
//! hundred times as long as the others. Sending the request to somebody else as soon as it has taken longer than nearly all
//! do, and taking whichever answer comes first, costs a few requests more and cuts the tail (Dean and Barroso, "The Tail at
//! Scale", Communications of the ACM, 2013).
//!
//! [`Hedge`] says when: after a fixed time, or after a percentile of what recent calls took.
//!
//! # What is measured
//!
//! The percentile is the exact one (nearest rank) of the last 1,024 calls, as far as they are younger than the window. So many
//! are enough to tell the 99.9th percentile and few enough to be sorted in microseconds, once in 100 ms; a histogram over
//! all time would be either coarse or large, and would have to be emptied now and then, after which it knows nothing. One
//! sample is one atomic word. Neither a record nor a look takes a lock or allocates.
//!
//! # What is not measured, and why
//!
//! A hedged call ends before its first attempt has answered. Leaving such attempts out would leave out the slow ones: the
//! percentile would fall, more would be hedged, more left out, and it would fall further. Taking the winner's time in its place does the
//! same, because a hedge is only seen when it was fast. So each call counts once, by its first attempt: with what it took, or,
//! when nobody waited for its end, with how long it had taken by then, provided that this is at least the present
//! percentile ([`outlasted`](Hedge::outlasted)). It then stands above the percentile, where its true time would stand too, and a percentile
//! is about ranks and nothing else. Failures count in the same way: a slow one was slow, a fast one says nothing about
//! how long an answer takes.

use std::time::{Duration, Instant};

use crate::config::ConfigError;

mod window;

use window::Window;

/// How many hedges a request can have at most.
pub const MOST_HEDGES: u32 = 2;

/// The settings of a [`Hedge`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// After which time a hedge is sent. Default the 95th percentile.
    pub delay: Delay,
    /// Hedges per request, 1 or 2, each one delay after the one before. Default 1: two slow servers at once are rare.
    pub max_hedges: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: Delay::Percentile(Percentile::default()),
            max_hedges: 1,
        }
    }
}

/// After which time without an answer a hedge is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// As long as nearly all recent calls took.
    Percentile(Percentile),
}

/// A percentile of the time that recent calls took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile {
    /// Which one, from 50.0 to 99.9. Default 95.0: one call in twenty is hedged.
    pub percentile: f64,
    /// How many calls of the window it takes to believe it; with fewer, nothing is hedged. From 10 to 1,024, default 50.
    pub minimum_samples: u32,
    /// How old a call can be and count. From 1 s, default 60 s: a quiet client has enough of them in a minute, and a change of
    /// the servers' mood is forgotten after one.
    pub window: Duration,
    /// The shortest delay. Default 1 ms: below that, timers and schedulers are what is slow.
    pub minimum: Duration,
    /// The longest delay. Default 1 s: when nearly all calls take longer, the tail is not what is wrong.
    pub maximum: Duration,
}

impl Default for Percentile {
    fn default() -> Self {
        Self {
            percentile: 95.0,
            minimum_samples: 50,
            window: Duration::from_secs(60),
            minimum: Duration::from_millis(1),
            maximum: Duration::from_secs(1),
        }
    }
}

impl Percentile {
    fn validate(&self) -> Result<(), ConfigError> {
        // Not a number is within no range.
        if !(50.0..=99.9).contains(&self.percentile) {
            return Err(ConfigError::new(
                "hedge.percentile",
                self.percentile,
                "must be within 50.0..=99.9",
            ));
        }
        if !(10..=window::SAMPLES as u32).contains(&self.minimum_samples) {
            return Err(ConfigError::new(
                "hedge.minimum_samples",
                self.minimum_samples,
                "must be from 10 to 1024",
            ));
        }
        ConfigError::at_most_a_day("hedge.window", self.window)?;
        if self.window < Duration::from_secs(1) {
            return Err(ConfigError::new(
                "hedge.window",
                format_args!("{:?}", self.window),
                "must be at least 1s",
            ));
        }
        ConfigError::positive("hedge.minimum", self.minimum)?;
        ConfigError::at_most_a_day("hedge.maximum", self.maximum)?;
        if self.minimum > self.maximum {
            return Err(ConfigError::new(
                "hedge.minimum",
                format_args!("{:?}", self.minimum),
                "must not be longer than hedge.maximum",
            ));
        }
        Ok(())
    }
}

impl Config {
    /// Whether the settings make sense.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MOST_HEDGES).contains(&self.max_hedges) {
            return Err(ConfigError::new(
                "hedge.max_hedges",
                self.max_hedges,
                "must be 1 or 2",
            ));
        }
        match self.delay {
            Delay::Fixed(delay) => {
                ConfigError::positive("hedge.delay", delay)?;
                ConfigError::at_most_a_day("hedge.delay", delay)
            }
            Delay::Percentile(percentile) => percentile.validate(),
        }
    }
}

/// What one request has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How many hedges were sent.
    pub hedges: u32,
    /// When the newest attempt was sent.
    pub last: Instant,
}

/// Measures calls and says when one is hedged.
#[derive(Debug)]
pub struct Hedge {
    config: Config,
    window: Option<Window>,
}

impl Hedge {
    /// Nothing measured yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that is out of range.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let window = match config.delay {
            Delay::Fixed(_) => None,
            Delay::Percentile(percentile) => Some(Window::new(&percentile, window::SAMPLES, now)),
        };
        Ok(Self { config, window })
    }

    /// Whether calls are measured at all; with a fixed delay there is no need to.
    #[must_use]
    pub const fn measures(&self) -> bool {
        self.window.is_some()
    }

    /// After which time without an answer a hedge is sent now; `None` as long as too few calls were measured.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        match self.config.delay {
            Delay::Fixed(delay) => Some(delay),
            Delay::Percentile(Percentile {
                minimum, maximum, ..
            }) => {
                let percentile = self.window.as_ref()?.percentile(now)?;
                Some(percentile.clamp(minimum, maximum))
            }
        }
    }

    /// When the next hedge of a request leaves, if one may; `delay` is that of [`delay`](Self::delay), or one of its own.
    ///
    /// None is sent at or after `deadline`, when nobody would see its answer.
    #[must_use]
    pub fn next(&self, sent: Sent, delay: Duration, deadline: Option<Instant>) -> Option<Instant> {
        if sent.hedges >= self.config.max_hedges {
            return None;
        }
        let at = sent.last.checked_add(delay)?;
        deadline.is_none_or(|deadline| at < deadline).then_some(at)
    }

    /// The first attempt of a call brought an answer after `latency`.
    pub fn record(&self, latency: Duration, now: Instant) {
        if let Some(window) = &self.window {
            window.record(latency, now);
        }
    }

    /// The first attempt of a call brought no answer in `elapsed`: it failed, or nobody waits for it any more.
    pub fn outlasted(&self, elapsed: Duration, now: Instant) {
        if let Some(window) = &self.window
            && window
                .percentile(now)
                .is_some_and(|percentile| elapsed >= percentile)
        {
            window.record(elapsed, now);
        }
    }
}

#[cfg(all(test, not(ha_loom)))]
mod tests;

#[cfg(all(test, ha_loom))]
mod loom;
