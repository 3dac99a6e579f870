//! The phases of leaving service without dropping a request.
//!
//! A server that stops accepting the moment it is told to stop refuses the clients whose load balancer has not noticed
//! yet. So a drain first says "not ready" while still serving everything (*settle*), then refuses new connections while
//! what is under way finishes, and at a deadline gives up and reports what it cut.
//!
//! ```text
//! Serving --start--> NotReady --settle--> Refusing --deadline--> Deadline
//! ```

use std::time::{Duration, Instant};

use crate::config::ConfigError;

/// Where a server stands between serving and gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum Phase {
    /// Ready, and accepting everything.
    Serving,
    /// Says "not ready" to health checks, and still accepts and serves everything that comes.
    NotReady,
    /// Accepts no new connection; requests under way finish.
    Refusing,
    /// Out of time: whatever is still under way is cut.
    Deadline,
}

/// The timing of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long to say "not ready" before refusing connections. Default 5 s: longer than a health check's interval, so
    /// that the balancers in front have seen it and look elsewhere.
    pub settle: Duration,
    /// How long after the start of the drain whatever is left is cut. Default 25 s: below the 30 s that most
    /// supervisors wait before they kill.
    pub deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(5),
            deadline: Duration::from_secs(25),
        }
    }
}

/// A drain as a value: told when it starts, asked which phase it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    config: Config,
    started: Option<Instant>,
}

impl Drain {
    /// A drain that has not started.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the deadline is zero, longer than a day, or shorter than `config.settle`.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        ConfigError::positive("drain.deadline", config.deadline)?;
        ConfigError::at_most_a_day("drain.deadline", config.deadline)?;
        if config.deadline < config.settle {
            return Err(ConfigError::new(
                "drain.deadline",
                format_args!("{:?}", config.deadline),
                "must not be shorter than drain.settle",
            ));
        }
        Ok(Self {
            config,
            started: None,
        })
    }

    /// Starts the drain; true when this call did it. A second start changes nothing, so that a nervous operator who
    /// presses Ctrl-C twice does not get a longer drain.
    pub fn start(&mut self, now: Instant) -> bool {
        let first = self.started.is_none();
        self.started.get_or_insert(now);
        first
    }

    /// The phase at `now`. Never goes back, as long as `now` does not.
    #[must_use]
    pub fn phase(&self, now: Instant) -> Phase {
        let Some(started) = self.started else {
            return Phase::Serving;
        };
        let elapsed = now.saturating_duration_since(started);
        if elapsed >= self.config.deadline {
            Phase::Deadline
        } else if elapsed >= self.config.settle {
            Phase::Refusing
        } else {
            Phase::NotReady
        }
    }

    /// When `phase` is reached: `None` while the drain has not started.
    #[must_use]
    pub fn reaches(&self, phase: Phase) -> Option<Instant> {
        let started = self.started?;
        match phase {
            Phase::Serving | Phase::NotReady => Some(started),
            Phase::Refusing => started.checked_add(self.config.settle),
            Phase::Deadline => started.checked_add(self.config.deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: Config = Config {
        settle: Duration::from_secs(5),
        deadline: Duration::from_secs(25),
    };

    #[test]
    fn phases_follow_the_clock_after_the_start() {
        let t0 = Instant::now();
        let mut drain = Drain::new(CONFIG).unwrap();
        assert_eq!(drain.phase(t0 + Duration::from_secs(999)), Phase::Serving);
        assert!(drain.start(t0));
        for (millis, phase) in [
            (0, Phase::NotReady),
            (4_999, Phase::NotReady),
            (5_000, Phase::Refusing),
            (24_999, Phase::Refusing),
            (25_000, Phase::Deadline),
            (99_000, Phase::Deadline),
        ] {
            assert_eq!(
                drain.phase(t0 + Duration::from_millis(millis)),
                phase,
                "after {millis} ms"
            );
        }
    }

    #[test]
    fn a_second_start_does_not_move_the_deadline() {
        let t0 = Instant::now();
        let mut drain = Drain::new(CONFIG).unwrap();
        drain.start(t0);
        assert!(!drain.start(t0 + Duration::from_secs(20)));
        assert_eq!(
            drain.reaches(Phase::Deadline),
            Some(t0 + Duration::from_secs(25))
        );
    }

    #[test]
    fn no_settle_time_refuses_at_once() {
        let t0 = Instant::now();
        let mut drain = Drain::new(Config {
            settle: Duration::ZERO,
            ..CONFIG
        })
        .unwrap();
        drain.start(t0);
        assert_eq!(drain.phase(t0), Phase::Refusing);
    }

    #[test]
    fn a_deadline_of_zero_of_days_or_inside_the_settle_time_is_refused_by_value() {
        for (settle, deadline, message) in [
            (
                5,
                4,
                "drain.deadline is 4s: must not be shorter than drain.settle",
            ),
            (0, 0, "drain.deadline is 0ns: must be longer than zero"),
            (
                5,
                86_401,
                "drain.deadline is 86401s: must not be longer than a day",
            ),
        ] {
            let config = Config {
                settle: Duration::from_secs(settle),
                deadline: Duration::from_secs(deadline),
            };
            assert_eq!(Drain::new(config).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_clock_that_reads_before_the_start_is_the_first_phase() {
        let t0 = Instant::now();
        let mut drain = Drain::new(CONFIG).unwrap();
        drain.start(t0 + Duration::from_secs(1));
        assert_eq!(drain.phase(t0), Phase::NotReady);
    }

    proptest! {
        #[test]
        fn phases_never_go_back_and_change_when_announced(settle in 0u64..10_000, more in 1u64..10_000, a in 0u64..30_000, b in 0u64..30_000) {
            let t0 = Instant::now();
            let mut drain = Drain::new(Config {
                settle: Duration::from_millis(settle),
                deadline: Duration::from_millis(settle + more),
            }).unwrap();
            drain.start(t0);
            let (early, late) = (t0 + Duration::from_millis(a.min(b)), t0 + Duration::from_millis(a.max(b)));
            prop_assert!(drain.phase(early) <= drain.phase(late));
            for phase in [Phase::NotReady, Phase::Refusing, Phase::Deadline] {
                let at = drain.reaches(phase).unwrap();
                prop_assert_eq!(drain.phase(late) >= phase, late >= at);
            }
        }
    }
}
