//! Rise and fall: how many checks in a row it takes to change one's mind about an endpoint.
//!
//! One lost packet must not take an endpoint out, and one lucky answer must not bring a sick one back. While the last
//! check disagrees with the current state, checks come faster, so that the decision falls soon.

use std::time::Duration;

use crate::config::ConfigError;

/// What counts before the first check has decided anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// Traffic at once; checks take it away. For fleets in which most endpoints are well, and so that a restart of
    /// the client does not depend on the checks.
    #[default]
    Optimistic,
    /// No traffic until one check has passed (a single one: `rise` is for those that failed before).
    FirstPass,
}

/// The numbers of active checks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Time from the end of one check to the start of the next. Default 5 s: cheap for the endpoint, and with
    /// `transition_interval` and `fall` it bounds the time to detection.
    pub interval: Duration,
    /// The same while the last check disagrees with the state. Default 1 s.
    pub transition_interval: Duration,
    /// Each wait is longer or shorter by up to this ratio, so that many clients do not check in step. Default 0.1.
    pub jitter_ratio: f64,
    /// Failed checks in a row that take an endpoint out. Default 2.
    pub fall: u32,
    /// Passed checks in a row that bring it back. Default 2.
    pub rise: u32,
    /// What holds before the first check. Default [`Start::Optimistic`].
    pub start: Start,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            transition_interval: Duration::from_secs(1),
            jitter_ratio: 0.1,
            fall: 2,
            rise: 2,
            start: Start::Optimistic,
        }
    }
}

impl Config {
    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::positive("health.interval", self.interval)?;
        ConfigError::positive("health.transition_interval", self.transition_interval)?;
        if self.transition_interval > self.interval {
            return Err(ConfigError::new(
                "health.transition_interval",
                format_args!("{:?}", self.transition_interval),
                "must not be longer than health.interval",
            ));
        }
        // NaN fails this as well.
        if !(0.0..1.0).contains(&self.jitter_ratio) {
            return Err(ConfigError::new(
                "health.jitter_ratio",
                self.jitter_ratio,
                "must be at least 0 and below 1",
            ));
        }
        ConfigError::at_least_one("health.fall", self.fall)?;
        ConfigError::at_least_one("health.rise", self.rise)
    }
}

/// What is thought of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// No check has come back yet.
    Unchecked,
    /// Takes traffic.
    Passing,
    /// Takes none.
    Failing,
}

/// The state machine of one endpoint.
///
/// ```
/// use ha_core::health::{Config, Health, State};
///
/// let mut health = Health::new(Config::default())?;
/// assert_eq!(health.observe(false), None, "one failure is not enough");
/// assert_eq!(health.observe(false), Some(State::Failing));
/// assert_eq!(health.observe(true), None);
/// assert_eq!(health.observe(true), Some(State::Passing));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Health {
    config: Config,
    state: State,
    // Checks in a row that disagree with `state`.
    against: u32,
}

impl Health {
    /// A machine before its first check.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            state: State::Unchecked,
            against: 0,
        })
    }

    /// What is thought now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the endpoint may take traffic.
    #[must_use]
    pub fn is_available(&self) -> bool {
        match self.state {
            State::Passing => true,
            State::Failing => false,
            State::Unchecked => self.config.start == Start::Optimistic,
        }
    }

    /// Takes the result of one check and returns the new state if it changed.
    pub fn observe(&mut self, pass: bool) -> Option<State> {
        let needed = match (self.state, pass) {
            (State::Passing, true) | (State::Failing, false) => {
                self.against = 0;
                return None;
            }
            (State::Unchecked, true) => 1,
            // Nothing is lost by believing the first failure of one that has no traffic yet.
            (State::Unchecked, false) if self.config.start == Start::FirstPass => 1,
            (_, false) => self.config.fall,
            (_, true) => self.config.rise,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.state = if pass { State::Passing } else { State::Failing };
        Some(self.state)
    }

    /// How long to wait before the next check. `random` is uniform in `0.0..1.0`.
    #[must_use]
    pub fn next_check_in(&self, random: f64) -> Duration {
        let base = if self.against > 0 {
            self.config.transition_interval
        } else {
            self.config.interval
        };
        let spread = (random.clamp(0.0, 1.0) * 2.0 - 1.0) * self.config.jitter_ratio;
        base.mul_f64(1.0 + spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(start: Start, checks: &str) -> String {
        let mut health = Health::new(Config {
            start,
            ..Config::default()
        })
        .unwrap();
        checks
            .chars()
            .map(|c| {
                health.observe(c == '+');
                if health.is_available() { 'A' } else { '.' }
            })
            .collect()
    }

    #[test]
    fn states_follow_the_checks_by_rise_and_fall() {
        for (start, checks, available) in [
            (Start::Optimistic, "+++", "AAA"),
            (Start::Optimistic, "--", "A."),
            (Start::Optimistic, "-+-+-", "AAAAA"),
            (Start::Optimistic, "+--", "AA."),
            (Start::Optimistic, "--+-++", "A....A"),
            (Start::Optimistic, "---++-+", "A...AAA"),
            (Start::FirstPass, "+", "A"),
            (Start::FirstPass, "-++", "..A"),
            (Start::FirstPass, "+-+--", "AAAA."),
        ] {
            assert_eq!(run(start, checks), available, "{start:?} {checks}");
        }
    }

    #[test]
    fn a_start_without_a_check_is_available_only_when_optimistic() {
        for (start, available) in [(Start::Optimistic, true), (Start::FirstPass, false)] {
            let health = Health::new(Config {
                start,
                ..Config::default()
            })
            .unwrap();
            assert_eq!(health.is_available(), available);
            assert_eq!(health.state(), State::Unchecked);
        }
    }

    #[test]
    fn checks_come_faster_while_the_decision_is_open() {
        let mut health = Health::new(Config::default()).unwrap();
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(5));
        health.observe(false);
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(1));
        health.observe(false);
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(5));
        assert_eq!(health.next_check_in(0.0), Duration::from_millis(4500));
    }

    #[test]
    fn senseless_numbers_are_refused_by_name_and_value() {
        let good = Config::default;
        for (config, message) in [
            (
                Config {
                    interval: Duration::ZERO,
                    ..good()
                },
                "health.interval is 0ns: ",
            ),
            (
                Config {
                    transition_interval: Duration::from_secs(6),
                    ..good()
                },
                "health.transition_interval is 6s: ",
            ),
            (
                Config {
                    jitter_ratio: f64::NAN,
                    ..good()
                },
                "health.jitter_ratio is NaN: ",
            ),
            (
                Config {
                    jitter_ratio: 1.0,
                    ..good()
                },
                "health.jitter_ratio is 1: ",
            ),
            (Config { fall: 0, ..good() }, "health.fall is 0: "),
            (Config { rise: 0, ..good() }, "health.rise is 0: "),
        ] {
            let error = Health::new(config).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    proptest! {
        #[test]
        fn availability_changes_only_after_enough_agreeing_checks(
            fall in 1u32..5,
            rise in 1u32..5,
            checks in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut health = Health::new(Config { fall, rise, ..Config::default() }).unwrap();
            let mut before = health.is_available();
            for (i, _) in checks.iter().enumerate() {
                health.observe(checks[i]);
                let now = health.is_available();
                if now != before {
                    let needed = if now { rise } else { fall } as usize;
                    prop_assert!(i + 1 >= needed);
                    prop_assert!(checks[i + 1 - needed..=i].iter().all(|c| *c == now));
                }
                before = now;
            }
        }

        #[test]
        fn the_wait_stays_inside_the_jitter(random in 0.0f64..1.0) {
            let health = Health::new(Config::default()).unwrap();
            let wait = health.next_check_in(random);
            prop_assert!(wait >= Duration::from_millis(4500) && wait <= Duration::from_millis(5500));
        }
    }
}
