use std::time::Duration;

use crate::config::ConfigError;

/// The times of a lease. All that share a lease must have the same `ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How long the lease stays with a holder that does not renew it. Default 15 s, as in Kubernetes: longer than a failover of
    /// the store, so that the holder outlives it.
    pub ttl: Duration,
    /// How much earlier the holder regards it as over. Default a fifth of `ttl`: two clocks that differ in speed by a
    /// percent need a fiftieth, the rest is time to stop what was going on.
    pub margin: Duration,
    /// Time between renewals. Default a third of `ttl`, so that two may fail.
    pub renew_every: Duration,
    /// Time between looks at somebody else's lease. Default an eighth of `ttl`. The takeover does not wait for it.
    pub look_every: Duration,
    /// How long the store may take for one answer. Default an eighth of `ttl`.
    pub answer_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self::of(Duration::from_secs(15))
    }
}

impl Config {
    /// The defaults that go with `ttl`.
    #[must_use]
    pub fn of(ttl: Duration) -> Self {
        Self {
            ttl,
            margin: ttl / 5,
            renew_every: ttl / 3,
            look_every: ttl / 8,
            answer_within: ttl / 8,
        }
    }

    /// Whether the times make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] when one is zero or longer than a day, or when `ttl` does not leave time for a renewal and one more try
    /// before the margin.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("lease.ttl", self.ttl),
            ("lease.margin", self.margin),
            ("lease.renew_every", self.renew_every),
            ("lease.look_every", self.look_every),
            ("lease.answer_within", self.answer_within),
        ] {
            ConfigError::positive(field, value)?;
            ConfigError::at_most_a_day(field, value)?;
        }
        if self.renew_every + 2 * self.answer_within + self.margin > self.ttl {
            return Err(ConfigError::new(
                "lease.ttl",
                format_args!("{:?}", self.ttl),
                "must be at least lease.renew_every, lease.margin and twice lease.answer_within together",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_leave_no_second_chance_are_refused_by_name_and_value() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(Config::of(Duration::from_millis(40)).validate(), Ok(()));
        let secs = Duration::from_secs;
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::of(secs(16));
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (change, message) in [
            (
                (|config| config.ttl = Duration::ZERO) as fn(&mut Config),
                "lease.ttl is 0ns: must be longer than zero",
            ),
            (
                |config| config.margin = Duration::ZERO,
                "lease.margin is 0ns: must be longer than zero",
            ),
            (
                |config| config.look_every = Duration::from_secs(86_401),
                "lease.look_every is 86401s: must not be longer than a day",
            ),
            (
                |config| config.renew_every = Duration::from_secs(9),
                "lease.ttl is 16s: must be at least lease.renew_every, lease.margin and twice lease.answer_within together",
            ),
        ] {
            assert_eq!(refused(change), message);
        }
    }
}
