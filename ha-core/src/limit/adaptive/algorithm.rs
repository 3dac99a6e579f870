use std::time::Duration;

use crate::config::ConfigError;

/// By which rule a limit follows what is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Algorithm {
    /// Up by one while all is well, down by a share at a loss.
    Aimd(Aimd),
    /// Down as latency rises above its long-term average. Good with many places and with latencies that differ.
    Gradient2(Gradient2),
    /// Up or down by the queue that latency above its minimum implies. Good with few places and latencies that are alike.
    Vegas(Vegas),
}

impl Default for Algorithm {
    /// [`Vegas`]: at four times the capacity it holds p99 at twice that of an idle server, which [`Gradient2`] does not on a machine
    /// that has other things to do.
    fn default() -> Self {
        Self::Vegas(Vegas::default())
    }
}

impl From<Aimd> for Algorithm {
    fn from(aimd: Aimd) -> Self {
        Self::Aimd(aimd)
    }
}

impl From<Gradient2> for Algorithm {
    fn from(gradient: Gradient2) -> Self {
        Self::Gradient2(gradient)
    }
}

impl From<Vegas> for Algorithm {
    fn from(vegas: Vegas) -> Self {
        Self::Vegas(vegas)
    }
}

/// Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989; `AIMDLimit` of Netflix's concurrency-limits).
///
/// It knows only good and bad. Use it where overload shows as losses (429, 503, timeouts), such as in front of a server that
/// limits itself; before a server that only becomes slow, set `latency` to what is too slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aimd {
    /// A mean latency above this counts as a loss. Default 5 s.
    pub latency: Duration,
}

impl Default for Aimd {
    fn default() -> Self {
        Self {
            latency: Duration::from_secs(5),
        }
    }
}

/// Compares latency now with a long-term average (`Gradient2Limit` of Netflix's concurrency-limits).
///
/// `limit * gradient + queue`, smoothed, where the gradient is `tolerance * long / now`, within 0.5..=1.0. Differences: the
/// average follows latency down only, and up when a re-probe has measured it, because in a long overload it would become that
/// overload (in simulation the limit doubled within a minute); and losses count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gradient2 {
    /// How far latency may rise above the average before the limit falls. Default 1.2; with Netflix's 1.5 the p99 at four times the
    /// capacity is above twice that of an idle server. From 1.
    pub tolerance: f64,
    /// What is added in each window, and thus the queue that is tolerated. Default 4.
    pub queue: u32,
    /// The share of each new value. Default 0.2. Above 0, up to 1.
    pub smoothing: f64,
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self {
            tolerance: 1.2,
            queue: 4,
            smoothing: 0.2,
        }
    }
}

/// Estimates the queue from latency above its minimum (TCP Vegas; `VegasLimit` of Netflix's concurrency-limits).
///
/// With `q = limit * (1 - min / now)` and `log = log10(limit)`, at least 1: `q <= log` adds `beta * log`, `q < alpha * log` adds `log`, `q > beta *
/// log` takes `log` away, and between the two it stays. Differences: the minimum is re-probed with fewer requests under way
/// instead of being taken from whatever comes next, and a loss takes a share instead of `log`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vegas {
    /// The queue, in units of `log10(limit)`, below which the limit rises. Default 3.
    pub alpha: f64,
    /// The one above which it falls. Default 6.
    pub beta: f64,
}

impl Default for Vegas {
    fn default() -> Self {
        Self {
            alpha: 3.0,
            beta: 6.0,
        }
    }
}

impl Algorithm {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Aimd(aimd) => {
                ConfigError::positive("aimd.latency", aimd.latency)?;
                ConfigError::at_most_a_day("aimd.latency", aimd.latency)
            }
            Self::Gradient2(gradient) => {
                within("gradient2.tolerance", gradient.tolerance, 1.0, 100.0)?;
                ConfigError::at_least_one("gradient2.queue", gradient.queue)?;
                within("gradient2.smoothing", gradient.smoothing, 0.001, 1.0)
            }
            Self::Vegas(vegas) => {
                within("vegas.alpha", vegas.alpha, 1.0, 100.0)?;
                if !(vegas.alpha..=100.0).contains(&vegas.beta) {
                    let reason = "must be from vegas.alpha to 100";
                    return Err(ConfigError::new("vegas.beta", vegas.beta, reason));
                }
                Ok(())
            }
        }
    }

    /// The next limit. `base` is the minimum or the average that latency is compared with. Called only when the limit is in use.
    pub(super) fn next(&self, limit: f64, latency: Duration, base: Duration) -> f64 {
        // Above one: the latency has risen.
        let ratio = latency.as_secs_f64().max(1e-9) / base.as_secs_f64().max(1e-9);
        match self {
            Self::Aimd(_) => limit + 1.0,
            Self::Gradient2(gradient) => {
                let slope = (gradient.tolerance / ratio).clamp(0.5, 1.0);
                let next = limit.mul_add(slope, f64::from(gradient.queue));
                (next - limit).mul_add(gradient.smoothing, limit)
            }
            Self::Vegas(vegas) => {
                let log = limit.log10().max(1.0);
                let queue = (limit * (1.0 - 1.0 / ratio)).ceil();
                if queue <= log {
                    vegas.beta.mul_add(log, limit)
                } else if queue < vegas.alpha * log {
                    limit + log
                } else if queue > vegas.beta * log {
                    limit - log
                } else {
                    limit
                }
            }
        }
    }
}

fn within(field: &'static str, value: f64, low: f64, high: f64) -> Result<(), ConfigError> {
    // Not a number is within no range.
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let reason = match field {
        "gradient2.smoothing" => "must be within 0.001..=1.0",
        _ => "must be within 1.0..=100.0",
    };
    Err(ConfigError::new(field, value, reason))
}
