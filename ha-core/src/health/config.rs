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
        ConfigError::at_most_a_day("health.interval", self.interval)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config), message: &str) {
        let mut config = Config::default();
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn senseless_numbers_are_refused_by_name_and_value() {
        let secs = Duration::from_secs;
        refused(
            |c| c.interval = Duration::ZERO,
            "health.interval is 0ns: must be longer",
        );
        refused(
            |c| c.interval = secs(86_401),
            "health.interval is 86401s: must not be longer than a day",
        );
        refused(
            |c| c.transition_interval = Duration::ZERO,
            "health.transition_interval is 0ns: ",
        );
        refused(
            |c| c.transition_interval = secs(6),
            "health.transition_interval is 6s: ",
        );
        refused(
            |c| c.jitter_ratio = f64::NAN,
            "health.jitter_ratio is NaN: ",
        );
        refused(|c| c.jitter_ratio = 1.0, "health.jitter_ratio is 1: ");
        refused(|c| c.jitter_ratio = -0.1, "health.jitter_ratio is -0.1: ");
        refused(|c| c.fall = 0, "health.fall is 0: ");
        refused(|c| c.rise = 0, "health.rise is 0: ");
        Config::default().validate().unwrap();
    }
}
