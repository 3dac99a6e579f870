use std::time::Duration;

use crate::config::ConfigError;

/// The numbers of a breaker.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Trips when at least this share of the calls in the window failed. Default 0.5: below that, retries elsewhere
    /// are enough.
    pub failure_ratio: f64,
    /// The ratio counts only from this many calls in the window. Default 100: fewer say little about a ratio.
    pub minimum_calls: u32,
    /// How far back the ratio looks, in ten buckets of equal length. Default 10 s.
    pub window: Duration,
    /// Trips after this many failures in a row, whatever the ratio. Default 5: an endpoint that is down is found
    /// before a hundred calls are lost on it.
    pub consecutive_failures: u32,
    /// How long it stays open the first time. Default 5 s. Each time a probe fails the wait doubles.
    pub open_min: Duration,
    /// The longest wait. Default 60 s: an endpoint that is back is found within a minute.
    pub open_max: Duration,
    /// Probes that must succeed, one after the other, before it closes. Default 2.
    pub probes: u32,
    /// A probe that has not come back after this long is given up, and the next call is the probe. Default 30 s, longer than callers wait:
    /// it only matters where a call has no timeout of its own.
    pub probe_timeout: Duration,
    /// Whether slow calls trip it as well. Default none: what is slow depends on the service.
    pub slow_calls: Option<SlowCalls>,
}

/// When slow calls trip a breaker. It needs [`Config::minimum_calls`] in the window, as the failure ratio does.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SlowCalls {
    /// A call that takes longer than this is slow, whether it succeeds or not.
    pub threshold: Duration,
    /// Trips when at least this share of the calls in the window was slow. Default 0.8: a service of which every other call is slow still
    /// does half its work.
    pub ratio: f64,
}

impl SlowCalls {
    /// Calls that take longer than `threshold` are slow.
    #[must_use]
    pub const fn over(threshold: Duration) -> Self {
        Self {
            threshold,
            ratio: 0.8,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::positive("breaker.slow_calls.threshold", self.threshold)?;
        ConfigError::at_most_a_day("breaker.slow_calls.threshold", self.threshold)?;
        share("breaker.slow_calls.ratio", self.ratio)
    }
}

fn share(field: &'static str, ratio: f64) -> Result<(), ConfigError> {
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

impl Default for Config {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            minimum_calls: 100,
            window: Duration::from_secs(10),
            consecutive_failures: 5,
            open_min: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
            probes: 2,
            probe_timeout: Duration::from_secs(30),
            slow_calls: None,
        }
    }
}

impl Config {
    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        share("breaker.failure_ratio", self.failure_ratio)?;
        ConfigError::at_least_one("breaker.minimum_calls", self.minimum_calls)?;
        ConfigError::at_least_one("breaker.consecutive_failures", self.consecutive_failures)?;
        ConfigError::at_least_one("breaker.probes", self.probes)?;
        if self.window < Duration::from_millis(10) || self.window > Duration::from_secs(3600) {
            return Err(ConfigError::new(
                "breaker.window",
                format_args!("{:?}", self.window),
                "must be from 10ms to 1h",
            ));
        }
        ConfigError::positive("breaker.open_min", self.open_min)?;
        if self.open_max < self.open_min {
            return Err(ConfigError::new(
                "breaker.open_max",
                format_args!("{:?}", self.open_max),
                "must not be shorter than breaker.open_min",
            ));
        }
        ConfigError::at_most_a_day("breaker.open_max", self.open_max)?;
        ConfigError::positive("breaker.probe_timeout", self.probe_timeout)?;
        ConfigError::at_most_a_day("breaker.probe_timeout", self.probe_timeout)?;
        self.slow_calls.as_ref().map_or(Ok(()), SlowCalls::validate)
    }

    /// How long to stay open after the `times`-th trip in a row (from 1). `random` is uniform in `0.0..1.0`.
    ///
    /// The wait is drawn from a band around `open_min · 2^(times-1)` so that the clients of one endpoint do not probe it
    /// in step, and never leaves `open_min..=open_max`.
    pub(super) fn open_for(&self, times: u32, random: f64) -> Duration {
        let doublings = times.saturating_sub(1).min(20);
        let base = self
            .open_min
            .saturating_mul(1 << doublings)
            .min(self.open_max);
        let high = base.mul_f64(1.5).min(self.open_max);
        let low = high.div_f64(1.5).max(self.open_min);
        low + high.saturating_sub(low).mul_f64(random.clamp(0.0, 1.0))
    }
}
