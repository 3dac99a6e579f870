use std::sync::Arc;
use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::health::{Agenda, Config, Start};

use super::event::{Event, Listener};
use super::probe::{Any, Probe};

/// How the endpoints of an upstream are checked: what is asked, and how often.
///
/// Made by [`Http::get`](super::Http::get), [`Tcp::connect`](super::Tcp::connect), `Grpc::server` or [`custom`](super::custom), and given to
/// [`Upstream::builder`](crate::upstream::Upstream::builder)`.health(..)`, which refuses what makes no sense.
#[derive(Debug, Clone)]
#[must_use = "a check does nothing before an upstream has it"]
pub struct Check<P = Any> {
    pub(super) probe: P,
    pub(super) settings: Settings,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) config: Config,
    timeout: Option<Duration>,
    pub(super) at_once: usize,
    pub(super) listeners: Vec<Listener>,
}

impl Settings {
    pub(super) fn timeout(&self) -> Duration {
        const TIMEOUT: Duration = Duration::from_secs(3);
        self.timeout.unwrap_or(TIMEOUT.min(self.config.interval))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.config.validate()?;
        ConfigError::positive("health.timeout", self.timeout())?;
        if self.config.interval < self.timeout() {
            return Err(ConfigError::new(
                "health.interval",
                format_args!("{:?}", self.config.interval),
                "must not be shorter than health.timeout",
            ));
        }
        Agenda::new(self.at_once).map(drop)
    }
}

impl<P> Check<P> {
    pub(super) fn new(probe: P) -> Self {
        Self {
            probe,
            settings: Settings {
                config: Config::default(),
                timeout: None,
                at_once: 256,
                listeners: Vec::new(),
            },
        }
    }

    /// Time from the end of one check to the start of the next. Default 5 s. Shortens
    /// [`transition_interval`](Self::transition_interval) with it when that would be longer. Must not be shorter than the timeout.
    pub fn interval(mut self, interval: Duration) -> Self {
        let config = &mut self.settings.config;
        config.interval = interval;
        config.transition_interval = config.transition_interval.min(interval);
        self
    }

    /// The same while the last check disagrees with what is thought of the endpoint. Default 1 s, or the interval when that is
    /// shorter: the decision should fall soon.
    pub fn transition_interval(mut self, interval: Duration) -> Self {
        self.settings.config.transition_interval = interval;
        self
    }

    /// Each wait is longer or shorter by up to this ratio, so that many clients do not check in step. Default 0.1.
    pub fn jitter_ratio(mut self, ratio: f64) -> Self {
        self.settings.config.jitter_ratio = ratio;
        self
    }

    /// The longest time for one check, connecting included. Default 3 s, or the interval when that is shorter: longer than a slow
    /// answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Failed checks in a row that take an endpoint out. Default 2: one lost packet does not.
    pub fn fall(mut self, fall: u32) -> Self {
        self.settings.config.fall = fall;
        self
    }

    /// Passed checks in a row that bring it back. Default 2.
    pub fn rise(mut self, rise: u32) -> Self {
        self.settings.config.rise = rise;
        self
    }

    /// What holds before the first check. Default [`Start::Optimistic`].
    pub fn start(mut self, start: Start) -> Self {
        self.settings.config.start = start;
        self
    }

    /// All numbers of [`Config`] at once.
    pub fn config(mut self, config: Config) -> Self {
        self.settings.config = config;
        self
    }

    /// How many checks of this upstream may be under way at once. Default 256: below the usual limit of 1,024 open files, and
    /// enough for some 700 endpoints that all hang with the default numbers (each holds a place for 3 of 8 seconds). Beyond it
    /// checks that are due start in the order of their due times as others end, which is after their timeout at the latest.
    pub fn at_once(mut self, checks: usize) -> Self {
        self.settings.at_once = checks;
        self
    }

    /// Calls this for each [`Event`]. There may be several listeners; they are called one after the other on the task that
    /// owns the checks, so a slow one delays them. The same events go to `tracing`.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.settings.listeners.push(Listener(Arc::new(listener)));
        self
    }
}

impl Check {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.probe.0.validate()?;
        self.settings.validate()
    }

    /// Whether an endpoint that was not checked yet takes traffic.
    pub(crate) fn starts_available(&self) -> bool {
        self.settings.config.start == Start::Optimistic
    }
}

impl<P: Probe> From<Check<P>> for Check {
    fn from(check: Check<P>) -> Self {
        Self {
            probe: Any(Arc::new(check.probe)),
            settings: check.settings,
        }
    }
}
