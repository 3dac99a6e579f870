use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ha_core::breaker::{Breaker, Config};
use ha_core::config::ConfigError;
use tower_layer::Layer;

use super::event::Listeners;
use super::gate::Gate;
use super::handle::Shared;
use super::{CircuitBreaker, Event, Handle, HttpBreakerLayer};
use crate::balance::{Any, Http};
use crate::clock;

/// Puts a breaker around a service. Refuses with [`Error::Open`](super::Error::Open).
///
/// One layer has one breaker: all services made from it, and their clones, share it.
#[derive(Debug, Clone)]
pub struct BreakerLayer<C = Any> {
    shared: Arc<Shared>,
    classify: C,
}

impl BreakerLayer {
    /// For one with a name, a classifier of one's own, or somebody who wants to know.
    pub fn builder(name: impl Into<Arc<str>>) -> Builder<Any> {
        Builder {
            config: Config::default(),
            classify: Any,
            listeners: Listeners {
                name: name.into(),
                all: Vec::new(),
            },
        }
    }

    /// One that answers HTTP requests itself while it is open, and takes a 5xx for a failure.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense.
    pub fn http(config: Config) -> Result<HttpBreakerLayer, ConfigError> {
        Ok(BreakerLayer::new(config, Http)?.into_http())
    }
}

impl<C> BreakerLayer<C> {
    /// One breaker for all services made by this layer, `default` by name. `classify` says what is a failure:
    /// [`Any`], [`Http`], [`Grpc`](crate::balance::Grpc) or a closure; see [`Classify`](super::Classify).
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense.
    pub fn new(config: Config, classify: C) -> Result<Self, ConfigError> {
        BreakerLayer::builder("default")
            .config(config)
            .classify(classify)
            .build()
    }

    /// The same breaker in the form that answers HTTP requests itself while it is open.
    #[must_use]
    pub fn into_http(self) -> HttpBreakerLayer<C> {
        HttpBreakerLayer::new(self.shared, self.classify)
    }

    /// A handle to the breaker.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> CircuitBreaker<S, C> {
        let gate = Gate::new(inner, self.shared.clone(), self.classify.clone());
        CircuitBreaker::new(gate)
    }
}

/// Sets up a [`BreakerLayer`].
#[derive(Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<C> {
    config: Config,
    classify: C,
    listeners: Listeners,
}

impl<C> Builder<C> {
    /// Its numbers. Default [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What is a failure. Default [`Any`]: an `Err`.
    pub fn classify<D>(self, classify: D) -> Builder<D> {
        Builder {
            config: self.config,
            classify,
            listeners: self.listeners,
        }
    }

    /// Calls `listener` with everything that happens to the breaker, in the task in which it happens, so that it must not block. May be
    /// given more than once.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listeners.all.push(Arc::new(listener));
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense.
    pub fn build(self) -> Result<BreakerLayer<C>, ConfigError> {
        Ok(BreakerLayer {
            shared: Arc::new(Shared {
                breaker: Breaker::new(self.config, clock::now())?,
                listeners: self.listeners,
                refused: AtomicU64::new(0),
            }),
            classify: self.classify,
        })
    }
}
