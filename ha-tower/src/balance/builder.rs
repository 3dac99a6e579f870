use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ha_core::breaker::{self, Breaker};
use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use ha_core::load::{self, PeakEwma};
use ha_core::slow_start::{self, Ramp};
use ha_core::subset::Subset;
use ha_core::{outlier, spread};

use super::changes::Changes;
use super::event::{Listener, Listeners};
use super::members::Shared;
use super::outlier::Ejector;
use super::service::Control;
use super::{Any, Balance, Event, Policy};
use crate::clock;

/// All that a balancer can be told but its endpoints and its protocol.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) breaker: Option<breaker::Config>,
    pub(crate) load: load::Config,
    pub(crate) spread: spread::Config,
    pub(crate) slow_start: Option<slow_start::Config>,
    pub(crate) outlier: Option<outlier::Config>,
    pub(crate) subset: Option<Subset>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) available_at_first: bool,
    /// Measures latency also when the policy does not look at it, and counts picks.
    pub(crate) observes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "".into(),
            policy: Policy::default(),
            breaker: Some(breaker::Config::default()),
            load: load::Config::default(),
            spread: spread::Config::default(),
            slow_start: Some(slow_start::Config::default()),
            outlier: None,
            subset: None,
            listeners: Vec::new(),
            available_at_first: true,
            observes: false,
        }
    }
}

impl Settings {
    /// Whether the settings make sense.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.policy.validate()?;
        if let Some(breaker) = &self.breaker {
            breaker.validate()?;
        }
        self.load.validate()?;
        self.spread.validate()?;
        if let Some(slow_start) = &self.slow_start {
            slow_start.validate()?;
        }
        if let Some(outlier) = &self.outlier {
            outlier.validate()?;
        }
        Ok(())
    }
}

/// Settings of a [`Balance`].
#[derive(Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<S, P = Any> {
    endpoints: Vec<(Endpoint, S)>,
    settings: Settings,
    protocol: P,
}

impl<S> Balance<S> {
    /// Settings of a balancer over these endpoints. The list may be empty.
    pub fn builder(endpoints: impl IntoIterator<Item = (Endpoint, S)>) -> Builder<S> {
        Builder {
            endpoints: endpoints.into_iter().collect(),
            settings: Settings::default(),
            protocol: Any,
        }
    }
}

impl<S, P> Builder<S, P> {
    /// How one is picked. Default [`P2c::peak_ewma`](super::P2c::peak_ewma).
    pub fn policy(mut self, policy: impl Into<Policy>) -> Self {
        self.settings.policy = policy.into();
        self
    }

    /// The breaker of each endpoint, or `None` for none, where the services have one of their own. Default
    /// [`breaker::Config::default`].
    pub fn breaker(mut self, config: impl Into<Option<breaker::Config>>) -> Self {
        self.settings.breaker = config.into();
        self
    }

    /// The load estimate of each endpoint. Default [`load::Config::default`].
    pub fn load(mut self, config: load::Config) -> Self {
        self.settings.load = config;
        self
    }

    /// How traffic spreads over priorities, regions and zones, and where the caller stands. Default
    /// [`spread::Config::default`]: the caller stands nowhere.
    pub fn spread(mut self, config: spread::Config) -> Self {
        self.settings.spread = config;
        self
    }

    /// How an endpoint that is new or back takes its share little by little; `None` gives it all at once. Default
    /// [`slow_start::Config::default`]: 30 s for a new one, 5 s for one that is back. The endpoints given to
    /// [`builder`](Balance::builder) are not new.
    pub fn slow_start(mut self, config: impl Into<Option<slow_start::Config>>) -> Self {
        self.settings.slow_start = config.into();
        self
    }

    /// Ejects endpoints by what requests say of them, compared with the others. Default off.
    ///
    /// Needs [`Balance::drive`] to run: without it requests are counted, and nobody is ejected.
    pub fn outlier(mut self, config: outlier::Config) -> Self {
        self.settings.outlier = Some(config);
        self
    }

    /// Uses only a part of a large fleet, chosen by the identity of this client. Default all. Endpoints of weight 0
    /// stay whatever it says: they finish what they have.
    pub fn subset(mut self, subset: Subset) -> Self {
        self.settings.subset = Some(subset);
        self
    }

    /// Calls this for each [`Event`]. There may be several listeners. They are called where it happens, which may be on the way
    /// of a request: hand over what takes time. The same events go to `tracing`.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.settings.listeners.push(Listener::new(listener));
        self
    }

    /// How requests and responses are read. Default [`Any`].
    pub fn protocol<Q>(self, protocol: Q) -> Builder<S, Q> {
        Builder {
            endpoints: self.endpoints,
            settings: self.settings,
            protocol,
        }
    }

    #[cfg(test)]
    pub(crate) fn available_at_first(mut self, available: bool) -> Self {
        self.settings.available_at_first = available;
        self
    }

    pub(crate) fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes the balancer.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense, and `endpoint.key` when a key is there twice.
    pub fn build(self) -> Result<Balance<S, P>, ConfigError> {
        self.settings.validate()?;
        let now = clock::now();
        let settings = self.settings;
        let ejector = settings.outlier.map(|config| Ejector::new(config, now));
        let listeners = Listeners {
            upstream: settings.name,
            all: settings.listeners,
        };
        let changes = Arc::new(Changes::new(ejector.transpose()?, listeners, now));
        let control = Control {
            measures: settings.observes
                || settings.policy.looks_at_latency()
                || settings
                    .breaker
                    .as_ref()
                    .is_some_and(|breaker| breaker.slow_calls.is_some()),
            counts_picks: settings.observes,
            policy: settings.policy,
            spread: settings.spread,
            subset: settings.subset,
            breaker: settings.breaker,
            slow_start: settings.slow_start,
            load: PeakEwma::new(settings.load, now)?,
            available_at_first: settings.available_at_first,
            lanes: Mutex::default(),
            departed: Mutex::default(),
            updating: Mutex::default(),
        };
        let (endpoints, services): (Vec<_>, Vec<_>) = self.endpoints.into_iter().unzip();
        let mut services: Vec<Option<S>> = services.into_iter().map(Some).collect();
        let members = control.members(&HashMap::new(), endpoints, &changes, |i, _| {
            services.get_mut(i).and_then(Option::take)
        })?;
        changes.watch(members.list.iter().map(|member| &member.state));
        if let Some(event) = control.unknown_region(&members) {
            changes.tell(|| event);
        }
        Ok(Balance {
            shared: Arc::new(Shared::new(members, control, changes)),
            protocol: self.protocol,
        })
    }
}

impl Control {
    /// The breaker and the ramp of a new endpoint. A breaker that is off is there all the same, and never asked.
    pub(super) fn breaker_and_ramp(&self) -> Result<(Breaker, Option<Ramp>), ConfigError> {
        let now = clock::now();
        let ramp = self.slow_start.clone().map(|config| Ramp::new(config, now));
        let breaker = self.breaker.clone().unwrap_or_default();
        Ok((Breaker::new(breaker, now)?, ramp.transpose()?))
    }
}
