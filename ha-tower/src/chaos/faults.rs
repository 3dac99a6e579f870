use std::time::Duration;

use ha_core::config::ConfigError;
use http::StatusCode;

/// What goes wrong, and how often. Ratios are shares of the requests that match, from 0 to 1; nothing goes wrong that is not set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    pub(super) latency_ratio: f64,
    latency_min: Duration,
    latency_max: Duration,
    pub(super) error_ratio: f64,
    status_ratio: f64,
    status: StatusCode,
    cut_ratio: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            latency_ratio: 0.0,
            latency_min: Duration::ZERO,
            latency_max: Duration::ZERO,
            error_ratio: 0.0,
            status_ratio: 0.0,
            status: StatusCode::SERVICE_UNAVAILABLE,
            cut_ratio: 0.0,
        }
    }

    /// This share of the requests is delayed by `delay`, whatever else happens to them.
    #[must_use]
    pub const fn latency(self, ratio: f64, delay: Duration) -> Self {
        self.latency_between(ratio, delay, delay)
    }

    /// This share of the requests is delayed by something between `min` and `max`, whatever else happens to them.
    #[must_use]
    pub const fn latency_between(mut self, ratio: f64, min: Duration, max: Duration) -> Self {
        self.latency_ratio = ratio;
        self.latency_min = min;
        self.latency_max = max;
        self
    }

    /// This share of the requests fails with the error of [`Builder::error_with`](super::Builder::error_with).
    #[must_use]
    pub const fn errors(mut self, ratio: f64) -> Self {
        self.error_ratio = ratio;
        self
    }

    /// This share of the requests is answered with `status`.
    #[must_use]
    pub const fn status(mut self, ratio: f64, status: StatusCode) -> Self {
        self.status_ratio = ratio;
        self.status = status;
        self
    }

    /// This share of the requests is answered with a body that breaks, over which a server closes the connection.
    #[must_use]
    pub const fn cuts(mut self, ratio: f64) -> Self {
        self.cut_ratio = ratio;
        self
    }

    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with field and value: a ratio outside of 0..=1, more faults than requests, a delay of more than a day, a longest one below
    /// the shortest, or a status that is no final answer.
    pub fn validate(&self) -> Result<(), ConfigError> {
        share("chaos.latency_ratio", self.latency_ratio)?;
        share("chaos.error_ratio", self.error_ratio)?;
        share("chaos.status_ratio", self.status_ratio)?;
        share("chaos.cut_ratio", self.cut_ratio)?;
        let sum = self.error_ratio + self.status_ratio + self.cut_ratio;
        // Shares such as 0.7, 0.2 and 0.1 add up to a little more than 1.
        if sum > 1.0 + 1e-9 {
            return Err(ConfigError::new(
                "chaos.error_ratio + status_ratio + cut_ratio",
                sum,
                "must be at most 1: a request has one fault at most",
            ));
        }
        ConfigError::at_most_a_day("chaos.latency_max", self.latency_max)?;
        if self.latency_max < self.latency_min {
            return Err(ConfigError::new(
                "chaos.latency_max",
                format_args!("{:?}", self.latency_max),
                "must not be shorter than chaos.latency_min",
            ));
        }
        if self.status.is_informational() {
            return Err(ConfigError::new(
                "chaos.status",
                self.status,
                "must not be informational: that is no final answer",
            ));
        }
        Ok(())
    }

    /// What the `number`-th request gets.
    pub(super) fn deal(&self, seed: u64, number: u64) -> Injected {
        // Four draws for each request, whatever the ratios: so a larger ratio keeps those that a smaller one has picked.
        let draw = |n| uniform(seed, number.wrapping_mul(4).wrapping_add(n));
        let spread = self.latency_max - self.latency_min;
        let delay = || self.latency_min + spread.mul_f64(draw(1));
        let x = draw(2);
        let fault = if x < self.error_ratio {
            Some(Fault::Error)
        } else if x < self.error_ratio + self.status_ratio {
            Some(Fault::Status(self.status))
        } else if x < self.error_ratio + self.status_ratio + self.cut_ratio {
            Some(Fault::Cut)
        } else {
            None
        };
        Injected {
            delay: (draw(0) < self.latency_ratio).then(delay),
            fault,
        }
    }
}

fn share(field: &'static str, ratio: f64) -> Result<(), ConfigError> {
    // NaN fails this as well.
    if (0.0..=1.0).contains(&ratio) {
        return Ok(());
    }
    Err(ConfigError::new(field, ratio, "must be from 0 to 1"))
}

/// The `n`-th number in `0.0..1.0` of a seed, by SplitMix64 (Steele, Lea and Flood, 2014).
fn uniform(seed: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

/// What was done to a request instead of calling the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It failed.
    Error,
    /// It was answered with this status.
    Status(StatusCode),
    /// Its connection is cut.
    Cut,
}

/// Response extension: what was done to this request on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    /// How long it was delayed.
    pub delay: Option<Duration>,
    /// What was done instead of calling the service.
    pub fault: Option<Fault>,
}

impl Injected {
    pub(super) fn is_nothing(&self) -> bool {
        self.delay.is_none() && self.fault.is_none()
    }
}
