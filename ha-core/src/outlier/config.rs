use std::time::Duration;

use crate::config::ConfigError;

/// The numbers of outlier ejection. A detector that is `None` is off.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// How long requests are counted before the endpoints are compared. Default 10 s: long enough for a hundred requests
    /// each, short enough to act within half a minute.
    pub interval: Duration,
    /// Ejects after this many failures in a row. Default 5: at an error ratio of 1 % that comes up once in ten billion
    /// requests, and an endpoint that is down is found after five.
    pub consecutive_failures: Option<u32>,
    /// Ejects after this many connections in a row that could not be made. Default 3: fewer than above, because a refused
    /// connection says more than an error that one request may have caused.
    pub consecutive_connect_failures: Option<u32>,
    /// Ejects those that succeed far more rarely than the others. On by default.
    pub success_rate: Option<SuccessRate>,
    /// Ejects those that fail nearly always, whatever the others do. On by default.
    pub failure: Option<Failure>,
    /// The first ejection lasts this long, the k-th in a row k times as long. Default 30 s.
    pub base_ejection: Duration,
    /// The longest ejection. Default 300 s: an endpoint that is back is found within five minutes.
    pub max_ejection: Duration,
    /// At most this share of the endpoints is ejected at a time, though always one where there are two. Default 0.1: when
    /// more look bad, the cause is rather the load or the caller.
    pub max_ejected_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            consecutive_failures: Some(5),
            consecutive_connect_failures: Some(3),
            success_rate: Some(SuccessRate::default()),
            failure: Some(Failure::default()),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_ratio: 0.1,
        }
    }
}

/// The detector that compares endpoints with each other.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SuccessRate {
    /// Ejects below the mean of all success ratios minus this many standard deviations. Default 1.9, of which one endpoint
    /// among five can just fall short (2.0 is the most it can).
    pub deviations: f64,
    /// And only when it is below the mean by at least this ratio. Default 0.05: where the others failed never, one failed
    /// request in a hundred is two standard deviations off, and no reason to eject.
    pub minimum_gap_ratio: f64,
    /// Compares only when this many endpoints had enough requests. Default 5: a deviation among fewer says nothing.
    pub minimum_hosts: u32,
    /// How many requests in an interval are enough. Default 100.
    pub minimum_requests: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            deviations: 1.9,
            minimum_gap_ratio: 0.05,
            minimum_hosts: 5,
            minimum_requests: 100,
        }
    }
}

/// The detector that looks at each endpoint alone.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Failure {
    /// Ejects when at least this share of its requests failed. Default 0.85.
    pub failure_ratio: f64,
    /// Only when this many endpoints had enough requests. Default 5.
    pub minimum_hosts: u32,
    /// How many requests in an interval are enough. Default 50.
    pub minimum_requests: u32,
}

impl Default for Failure {
    fn default() -> Self {
        Self {
            failure_ratio: 0.85,
            minimum_hosts: 5,
            minimum_requests: 50,
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::positive("outlier.interval", self.interval)?;
        longest(
            "outlier.interval",
            self.interval,
            HOUR,
            "must not be longer than an hour",
        )?;
        if let Some(count) = self.consecutive_failures {
            ConfigError::at_least_one("outlier.consecutive_failures", count)?;
        }
        if let Some(count) = self.consecutive_connect_failures {
            ConfigError::at_least_one("outlier.consecutive_connect_failures", count)?;
        }
        if let Some(success_rate) = &self.success_rate {
            success_rate.validate()?;
        }
        if let Some(failure) = &self.failure {
            failure.validate()?;
        }
        ConfigError::positive("outlier.base_ejection", self.base_ejection)?;
        if self.max_ejection < self.base_ejection {
            return Err(ConfigError::new(
                "outlier.max_ejection",
                format_args!("{:?}", self.max_ejection),
                "must not be shorter than outlier.base_ejection",
            ));
        }
        longest(
            "outlier.max_ejection",
            self.max_ejection,
            DAY,
            "must not be longer than a day",
        )?;
        above_zero_to_one("outlier.max_ejected_ratio", self.max_ejected_ratio)
    }

    /// How many of `hosts` may be ejected at a time. Never the only one: nobody else would take its requests.
    pub(super) fn most_ejected(&self, hosts: usize) -> usize {
        if hosts < 2 {
            return 0;
        }
        let share = hosts as f64 * self.max_ejected_ratio;
        // A hair of tolerance, so that a tenth of 30 is 3 although 0.1 is not a binary fraction.
        ((share + 1e-9) as usize).max(1)
    }

    /// The largest factor that `base_ejection` is multiplied by: beyond it the ejection grows no longer, and each step would
    /// only have to be taken back.
    pub(super) fn most_times(&self) -> u32 {
        let times = self.max_ejection.as_secs_f64() / self.base_ejection.as_secs_f64();
        times.ceil() as u32
    }

    pub(super) fn ejection(&self, times: u32) -> Duration {
        self.base_ejection
            .saturating_mul(times)
            .min(self.max_ejection)
    }
}

impl SuccessRate {
    fn validate(&self) -> Result<(), ConfigError> {
        if !(self.deviations > 0.0 && self.deviations.is_finite()) {
            return Err(ConfigError::new(
                "outlier.success_rate.deviations",
                self.deviations,
                "must be a finite number above 0",
            ));
        }
        if !(0.0..1.0).contains(&self.minimum_gap_ratio) {
            return Err(ConfigError::new(
                "outlier.success_rate.minimum_gap_ratio",
                self.minimum_gap_ratio,
                "must be at least 0 and below 1",
            ));
        }
        ConfigError::at_least_one("outlier.success_rate.minimum_hosts", self.minimum_hosts)?;
        ConfigError::at_least_one(
            "outlier.success_rate.minimum_requests",
            self.minimum_requests,
        )
    }
}

impl Failure {
    fn validate(&self) -> Result<(), ConfigError> {
        above_zero_to_one("outlier.failure.failure_ratio", self.failure_ratio)?;
        ConfigError::at_least_one("outlier.failure.minimum_hosts", self.minimum_hosts)?;
        ConfigError::at_least_one("outlier.failure.minimum_requests", self.minimum_requests)
    }
}

fn above_zero_to_one(field: &'static str, ratio: f64) -> Result<(), ConfigError> {
    // NaN fails this as well.
    if ratio > 0.0 && ratio <= 1.0 {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        ratio,
        "must be above 0 and at most 1",
    ))
}

fn longest(
    field: &'static str,
    value: Duration,
    limit: Duration,
    reason: &'static str,
) -> Result<(), ConfigError> {
    if value <= limit {
        return Ok(());
    }
    Err(ConfigError::new(field, format_args!("{value:?}"), reason))
}
