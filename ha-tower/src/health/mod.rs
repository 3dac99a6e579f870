//! Active health checks.
//!
//! Each endpoint is asked on a connection of its own, by a task of its own: one that hangs delays no other. An endpoint
//! that fails gets no traffic, and no panic rule brings it back: it said itself that it cannot serve.

mod check;

pub(crate) use check::Checks;

use std::time::Duration;

use ha_core::config::ConfigError;
use http::uri::PathAndQuery;

pub use ha_core::health::{Config, Start};

/// A `GET` that must be answered with a 2xx status in time.
#[derive(Debug, Clone)]
#[must_use]
pub struct Http {
    pub(crate) path: Result<PathAndQuery, String>,
    pub(crate) config: Config,
    pub(crate) timeout: Duration,
}

impl Http {
    /// Asks for this path, such as `/readyz`.
    pub fn get(path: impl AsRef<str>) -> Self {
        let text = path.as_ref();
        Self {
            path: text.parse().map_err(|_| text.to_owned()),
            config: Config::default(),
            timeout: Duration::from_secs(3),
        }
    }

    /// Time between checks. Default 5 s. Shortens [`Config::transition_interval`] with it when that would be longer.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self.config.transition_interval = self.config.transition_interval.min(interval);
        self
    }

    /// The longest time for one check, connecting included. Default 3 s: longer than a slow answer, shorter than the
    /// interval.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Failed checks in a row that take an endpoint out. Default 2.
    pub fn fall(mut self, fall: u32) -> Self {
        self.config.fall = fall;
        self
    }

    /// Passed checks in a row that bring it back. Default 2.
    pub fn rise(mut self, rise: u32) -> Self {
        self.config.rise = rise;
        self
    }

    /// What holds before the first check. Default [`Start::Optimistic`].
    pub fn start(mut self, start: Start) -> Self {
        self.config.start = start;
        self
    }

    /// All numbers at once.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        const REASON: &str = "must be a path that starts with a slash";
        match &self.path {
            Err(text) => {
                return Err(ConfigError::new(
                    "health.path",
                    format_args!("{text:?}"),
                    REASON,
                ));
            }
            Ok(path) if !path.as_str().starts_with('/') => {
                return Err(ConfigError::new(
                    "health.path",
                    format_args!("{path:?}"),
                    REASON,
                ));
            }
            Ok(_) => {}
        }
        ConfigError::positive("health.timeout", self.timeout)?;
        self.config.validate()
    }
}
