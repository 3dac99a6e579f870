use std::time::Duration;

use super::{Config, Start};
use crate::config::ConfigError;

/// What one check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finding {
    /// The endpoint can serve.
    Pass,
    /// It cannot, or nothing is known of it: no connection, no answer in time, a wrong answer.
    Fail,
    /// It said that it is leaving: what it has it finishes, and it wants nothing new.
    Draining,
    /// It said that what its whole region shares (such as the database) is gone.
    RegionSick,
}

impl From<()> for Finding {
    /// A check that has nothing to say has passed.
    fn from((): ()) -> Self {
        Self::Pass
    }
}

/// What is thought of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// No check has decided anything yet.
    Unchecked,
    /// Takes traffic.
    Passing,
    /// Takes none.
    Failing,
    /// Takes none, by its own wish, until checks pass again.
    Draining,
    /// Takes none while another region can serve: see [`Standing::RegionSick`](crate::spread::Standing::RegionSick).
    RegionSick,
}

/// The state machine of one endpoint.
///
/// A pass or a failure has to be seen `rise` or `fall` times in a row. [`Finding::Draining`] and [`Finding::RegionSick`] count
/// at once, because the endpoint itself says so; leaving those two states takes `rise` passes.
///
/// ```
/// use ha_core::health::{Config, Finding, Health, State};
///
/// let mut health = Health::new(Config::default())?;
/// assert_eq!(health.observe(Finding::Fail), None, "one failure is not enough");
/// assert_eq!(health.observe(Finding::Fail), Some(State::Failing));
/// assert_eq!(health.observe(Finding::Pass), None);
/// assert_eq!(health.observe(Finding::Pass), Some(State::Passing));
/// assert_eq!(health.observe(Finding::Draining), Some(State::Draining));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Health {
    config: Config,
    state: State,
    // The finding that disagrees with `state`, and how often it came in a row.
    against: Option<(Finding, u32)>,
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
            against: None,
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
            State::Unchecked => self.config.start == Start::Optimistic,
            State::Failing | State::Draining | State::RegionSick => false,
        }
    }

    /// Takes the result of one check and returns the new state if it changed.
    pub fn observe(&mut self, finding: Finding) -> Option<State> {
        let to = match finding {
            Finding::Pass => State::Passing,
            Finding::Fail => State::Failing,
            Finding::Draining => State::Draining,
            Finding::RegionSick => State::RegionSick,
        };
        if to == self.state {
            self.against = None;
            return None;
        }
        let seen = match self.against {
            Some((before, seen)) if before == finding => seen + 1,
            _ => 1,
        };
        if seen < self.needed(finding) {
            self.against = Some((finding, seen));
            return None;
        }
        self.against = None;
        self.state = to;
        Some(to)
    }

    fn needed(&self, finding: Finding) -> u32 {
        let first = self.state == State::Unchecked;
        match finding {
            Finding::Draining | Finding::RegionSick => 1,
            Finding::Pass if first => 1,
            Finding::Pass => self.config.rise,
            // Nothing is lost by believing the first failure of one that has no traffic yet.
            Finding::Fail if first && self.config.start == Start::FirstPass => 1,
            Finding::Fail => self.config.fall,
        }
    }

    /// How long to wait before the next check. `random` is uniform in `0.0..1.0`.
    #[must_use]
    pub fn next_check_in(&self, random: f64) -> Duration {
        let base = if self.against.is_some() {
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

    fn health(start: Start) -> Health {
        Health::new(Config {
            start,
            ..Config::default()
        })
        .unwrap()
    }

    fn finding(letter: char) -> Finding {
        match letter {
            '+' => Finding::Pass,
            '-' => Finding::Fail,
            'd' => Finding::Draining,
            _ => Finding::RegionSick,
        }
    }

    fn letter(health: &Health) -> char {
        match health.state() {
            State::Unchecked => '?',
            State::Passing => 'P',
            State::Failing => 'F',
            State::Draining => 'D',
            State::RegionSick => 'R',
        }
    }

    fn run(start: Start, checks: &str) -> String {
        let mut health = health(start);
        let states = checks.chars().map(|check| {
            health.observe(finding(check));
            letter(&health)
        });
        states.collect()
    }

    #[test]
    fn states_follow_the_checks_by_rise_and_fall() {
        use Start::{FirstPass, Optimistic};
        for (start, checks, states) in [
            (Optimistic, "+++", "PPP"),
            (Optimistic, "--", "?F"),
            (Optimistic, "-+-+-", "?PPPP"),
            (Optimistic, "+--", "PPF"),
            (Optimistic, "--+-++", "?FFFFP"),
            (Optimistic, "---++-+", "?FFFPPP"),
            (FirstPass, "+", "P"),
            (FirstPass, "-++", "FFP"),
            (FirstPass, "+-+--", "PPPPF"),
        ] {
            assert_eq!(run(start, checks), states, "{start:?} {checks}");
        }
    }

    #[test]
    fn what_an_endpoint_says_of_itself_counts_at_once_and_is_left_by_rise() {
        for (checks, states) in [
            ("+d", "PD"),
            ("d", "D"),
            ("+d+d++", "PDDDDP"),
            ("+d--", "PDDF"),
            ("+d-+-+", "PDDDDD"),
            ("+r", "PR"),
            ("+r++", "PRRP"),
            ("+rd", "PRD"),
            ("--r-+-", "?FRRRR"),
        ] {
            assert_eq!(run(Start::Optimistic, checks), states, "{checks}");
        }
    }

    #[test]
    fn a_start_without_a_check_is_available_only_when_optimistic() {
        for (start, available) in [(Start::Optimistic, true), (Start::FirstPass, false)] {
            let health = health(start);
            assert_eq!(health.is_available(), available);
            assert_eq!(health.state(), State::Unchecked);
        }
    }

    #[test]
    fn only_passing_takes_traffic_after_a_check() {
        for (check, available) in [('+', true), ('d', false), ('r', false)] {
            let mut health = health(Start::Optimistic);
            health.observe(finding(check));
            assert_eq!(health.is_available(), available, "{check}");
        }
    }

    #[test]
    fn checks_come_faster_while_the_decision_is_open() {
        let mut health = health(Start::Optimistic);
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(5));
        health.observe(Finding::Fail);
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(1));
        health.observe(Finding::Fail);
        assert_eq!(health.next_check_in(0.5), Duration::from_secs(5));
        assert_eq!(health.next_check_in(0.0), Duration::from_millis(4500));
    }

    #[test]
    fn a_machine_is_not_made_from_senseless_numbers() {
        let config = Config {
            fall: 0,
            ..Config::default()
        };
        assert_eq!(Health::new(config).unwrap_err().field(), "health.fall");
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
            for i in 0..checks.len() {
                health.observe(if checks[i] { Finding::Pass } else { Finding::Fail });
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
            let wait = health(Start::Optimistic).next_check_in(random);
            prop_assert!(wait >= Duration::from_millis(4500) && wait <= Duration::from_millis(5500));
        }
    }
}
