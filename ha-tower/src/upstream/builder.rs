use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::subset::Subset;
use ha_core::{slow_start, spread};

#[cfg(feature = "http2")]
use super::Http2;
use super::connect::Options;
use super::{Connections, Upstream};
use crate::balance::{Event, Listener, Policy, Settings};
use crate::discover::Source;
use crate::{breaker, health, outlier};

/// Why an [`Upstream`] could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting makes no sense.
    #[error("upstream {upstream:?} has a setting that makes no sense")]
    Config {
        /// The name of the upstream.
        upstream: String,
        /// The field and the value.
        #[source]
        source: ConfigError,
    },
    /// There is no source of endpoints.
    #[error("upstream {upstream:?} has no discover(..)")]
    NoSource {
        /// The name of the upstream.
        upstream: String,
    },
    /// Health checks and discovery need a tokio runtime, and `build` was called outside of one.
    #[error("upstream {upstream:?} was built outside of a tokio runtime")]
    NoRuntime {
        /// The name of the upstream.
        upstream: String,
    },
}

/// Settings of an [`Upstream`], made by [`Upstream::builder`].
#[derive(Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    pub(super) name: String,
    pub(super) source: Option<Source>,
    pub(super) balancing: Settings,
    pub(super) health: Option<health::Check>,
    pub(super) options: Options,
    pub(super) attempt_timeout: Duration,
}

impl Builder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            source: None,
            balancing: Settings::default(),
            health: None,
            options: Options {
                connect_timeout: Duration::from_millis(250),
                connections: Connections::default(),
                #[cfg(feature = "http2")]
                http2: None,
            },
            attempt_timeout: Duration::from_secs(1),
        }
    }

    /// Where the endpoints come from. Required.
    pub fn discover(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// How one is picked. Default [`P2c::peak_ewma`](crate::balance::P2c::peak_ewma).
    pub fn balance(mut self, policy: impl Into<Policy>) -> Self {
        self.balancing.policy = policy.into();
        self
    }

    /// The active check. Default none: then only the breakers take an endpoint out.
    pub fn health(mut self, check: impl Into<health::Check>) -> Self {
        self.health = Some(check.into());
        self
    }

    /// The breaker of each endpoint, or `None` for none. Default [`breaker::Config::default`].
    pub fn breaker(mut self, config: impl Into<Option<breaker::Config>>) -> Self {
        self.balancing.breaker = config.into();
        self
    }

    /// Ejects endpoints by what requests say of them, compared with the others. Default off: then only breakers and active
    /// checks take an endpoint out.
    pub fn outlier(mut self, config: outlier::Config) -> Self {
        self.balancing.outlier = Some(config);
        self
    }

    /// How an endpoint that is new or back takes its share little by little; `None` gives it all at once. Default
    /// [`slow_start::Config::default`]: 30 s for a new one, 5 s for one that is back.
    pub fn slow_start(mut self, config: impl Into<Option<slow_start::Config>>) -> Self {
        self.balancing.slow_start = config.into();
        self
    }

    /// How traffic spreads over priorities, regions and zones, and where the caller stands. Default
    /// [`spread::Config::default`]: the caller stands nowhere.
    pub fn spread(mut self, config: spread::Config) -> Self {
        self.balancing.spread = config;
        self
    }

    /// Uses only a part of a large fleet, chosen by the identity of this client; the rest is neither called nor checked. Default all.
    pub fn subset(mut self, subset: Subset) -> Self {
        self.balancing.subset = Some(subset);
        self
    }

    /// Calls this for each [`Event`] of the balancer: ejections, breakers, health, sets and panic. There may be several listeners. They
    /// are called where it happens, which may be on the way of a request: hand over what takes time.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.balancing.listeners.push(Listener::new(listener));
        self
    }

    /// The longest time to open a connection, resolving a host name and trying each of its addresses included. Default
    /// 250 ms: a round trip across a continent, with one lost packet not included, because another endpoint is nearer than
    /// a resent SYN.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = limit;
        self
    }

    /// The longest time from the pick to the response head, waiting for a connection and opening one included. Default
    /// 1 s. The body may take longer.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Limits and times of the connections to each endpoint. Default [`Connections::default`].
    pub fn connections(mut self, connections: Connections) -> Self {
        self.options.connections = connections;
        self
    }

    /// Speaks HTTP/2 to the endpoints. Default: HTTP/1.1.
    #[cfg(feature = "http2")]
    pub fn http2(mut self, settings: Http2) -> Self {
        self.options.http2 = Some(settings);
        self
    }

    /// Checks the settings and starts the background tasks.
    ///
    /// # Errors
    /// [`BuildError`] names the field and the value.
    pub fn build(self) -> Result<Upstream, BuildError> {
        Upstream::start(self)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::positive("connect_timeout", self.options.connect_timeout)?;
        ConfigError::positive("attempt_timeout", self.attempt_timeout)?;
        self.options.connections.validate(self.attempt_timeout)?;
        #[cfg(feature = "http2")]
        if let Some(http2) = &self.options.http2 {
            http2.validate()?;
        }
        self.balancing.validate()?;
        if let Some(health) = &self.health {
            health.validate()?;
        }
        Ok(())
    }
}
