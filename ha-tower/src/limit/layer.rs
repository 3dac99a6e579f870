use std::sync::Arc;
use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::limit::{Adaptive, AdaptiveConfig, Places, QueueConfig};
use http::HeaderName;
use tower_layer::Layer;

use super::gate::{Gate, Shares};
use super::protocol::{Inner, With};
use super::{Any, Http, Limit};
use crate::clock;

/// Limits how much is under way at once, to a number or to what it finds out. See the [module](super).
///
/// The state belongs to the layer: all services made by it, and their clones, share one limit and one queue.
#[derive(Debug, Clone)]
pub struct LimitLayer<P = Any> {
    gate: Arc<Gate>,
    protocol: P,
}

impl LimitLayer {
    /// At most so many under way, from 1 to 1,000,000: a bulkhead.
    pub fn concurrency(max: u32) -> Builder<Any> {
        Builder::new(Limiting::Fixed(max))
    }

    /// As many under way as latency and losses allow.
    pub fn adaptive(config: AdaptiveConfig) -> Builder<Any> {
        Builder::new(Limiting::Adaptive(config))
    }
}

impl<P> LimitLayer<P> {
    /// Watches the limit, and steers one that is a number.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.gate))
    }
}

impl<S, P: Clone> Layer<S> for LimitLayer<P> {
    type Service = Limit<S, P>;

    fn layer(&self, inner: S) -> Limit<S, P> {
        Limit::new(inner, Arc::clone(&self.gate), self.protocol.clone())
    }
}

#[derive(Debug, Clone, Copy)]
enum Limiting {
    Fixed(u32),
    Adaptive(AdaptiveConfig),
}

/// Sets up a [`LimitLayer`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before build()"]
pub struct Builder<P> {
    limiting: Limiting,
    name: Arc<str>,
    queue: Option<QueueConfig>,
    shares: Option<Shares>,
    protocol: P,
}

impl Builder<Any> {
    fn new(limiting: Limiting) -> Self {
        Self {
            limiting,
            name: Arc::from("limit"),
            queue: None,
            shares: None,
            protocol: Any,
        }
    }

    /// The HTTP form: refusals are answers, and a place is taken until the response body has ended.
    pub fn http(self) -> Builder<Http> {
        self.protocol(Http::new())
    }
}

impl Builder<Http> {
    /// As [`Http::trust_priority_header`].
    pub fn trust_priority_header(mut self, name: HeaderName) -> Self {
        self.protocol = self.protocol.trust_priority_header(name);
        self
    }

    /// As [`Http::retry_after`].
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.protocol = self.protocol.retry_after(wait);
        self
    }
}

impl<P> Builder<P> {
    /// The name in metrics and logs. Default `limit`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Lets requests wait for a place, by priority. Default: nobody waits; who finds no place is refused at once.
    pub const fn queue(mut self, config: QueueConfig) -> Self {
        self.queue = Some(config);
        self
    }

    /// Up to which ratio of the limit requests of the default and of the sheddable priority are let in; the rest is for those above
    /// them. Default 1.0 and 1.0: with a queue the order in which it serves is enough. Without one, 0.9 and 0.5 keep room for what
    /// is critical. Above 0.0, up to 1.0; the second must not be larger.
    pub const fn shares(mut self, default: f64, sheddable: f64) -> Self {
        self.shares = Some(Shares { default, sheddable });
        self
    }

    /// What requests and answers are: [`Any`], [`Http`] or one of yours.
    pub fn protocol<Q>(self, protocol: Q) -> Builder<Q> {
        Builder {
            limiting: self.limiting,
            name: self.name,
            queue: self.queue,
            shares: self.shares,
            protocol,
        }
    }

    /// Asks this function for the priority of a request; where it says `None`, the protocol decides.
    pub fn priority_by<F>(self, priority: F) -> Builder<With<P, F, Inner>>
    where
        P: Clone,
    {
        let inner = self.protocol.clone();
        self.protocol(With {
            inner,
            priority,
            outcome: Inner,
        })
    }

    /// Asks this function what an answer says about load; where it says `None`, the protocol decides.
    pub fn classify_by<F>(self, outcome: F) -> Builder<With<P, Inner, F>>
    where
        P: Clone,
    {
        let inner = self.protocol.clone();
        self.protocol(With {
            inner,
            priority: Inner,
            outcome,
        })
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that makes no sense, and its value.
    pub fn build(self) -> Result<LimitLayer<P>, ConfigError> {
        if let Some(shares) = &self.shares {
            share("limit.shares.default", shares.default, 1.0)?;
            share("limit.shares.sheddable", shares.sheddable, shares.default)?;
        }
        let (places, adaptive) = match self.limiting {
            Limiting::Fixed(max) => (Places::new(fixed("limit.concurrency", max)?), None),
            Limiting::Adaptive(config) => {
                let adaptive = Adaptive::new(config, clock::now())?;
                (Places::new(adaptive.limit()), Some(adaptive))
            }
        };
        let gate = Gate::new(self.name, places, adaptive, self.queue, self.shares)?;
        Ok(LimitLayer {
            gate: Arc::new(gate),
            protocol: self.protocol,
        })
    }
}

fn share(field: &'static str, value: f64, most: f64) -> Result<(), ConfigError> {
    // Not a number is greater than nothing.
    if value > 0.0 && value <= most {
        return Ok(());
    }
    let reason =
        "must be above 0.0, and neither above 1.0 nor above the share of a higher priority";
    Err(ConfigError::new(field, value, reason))
}

fn fixed(field: &'static str, max: u32) -> Result<u32, ConfigError> {
    if (1..=1_000_000).contains(&max) {
        return Ok(max);
    }
    Err(ConfigError::new(field, max, "must be from 1 to 1000000"))
}

/// Watches a limit, and steers one that is a number. Clones are the same.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Gate>);

/// How a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// How many may be under way.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait for a place.
    pub waiting: u32,
    /// The mean latency of the last window, where the limit is adaptive.
    pub latency: Option<Duration>,
    /// The latency that it is compared with.
    pub base_latency: Option<Duration>,
    /// Whether fewer are let in now to measure the undisturbed latency.
    pub probing: bool,
}

impl Handle {
    /// How it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let places = &self.0.places;
        let adaptive = self.0.adaptive.as_ref().map(Adaptive::snapshot);
        Snapshot {
            limit: places.limit(),
            in_flight: places.in_flight(),
            waiting: places.waiting(),
            latency: adaptive.and_then(|adaptive| adaptive.latency),
            base_latency: adaptive.and_then(|adaptive| adaptive.base_latency),
            probing: adaptive.is_some_and(|adaptive| adaptive.probing),
        }
    }

    /// Another number, from 1 to 1,000,000. What is under way beyond a lower one ends in peace.
    ///
    /// # Errors
    /// [`ConfigError`] when the number is out of range, or the limit is adaptive; then nothing has changed.
    pub fn set_limit(&self, max: u32) -> Result<(), ConfigError> {
        let max = fixed("limit.concurrency", max)?;
        if self.0.adaptive.is_some() {
            let reason = "must not be set where the limit is adaptive";
            return Err(ConfigError::new("limit.concurrency", max, reason));
        }
        if self.0.places.set_limit(max) {
            self.0.room_for_waiters();
        }
        Ok(())
    }
}
