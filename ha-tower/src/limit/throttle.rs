use std::sync::Arc;
use std::task::{Context, Poll};

use ha_core::config::ConfigError;
use ha_core::limit::{Priority, Throttle, ThrottleConfig, ThrottleSnapshot};
use tower_layer::Layer;
use tower_service::Service;

use super::gate::ShedLog;
use super::guard::GuardFuture;
use super::{Any, Held, Http, Outcome, Protocol, Reason, Shed};
use crate::clock;

/// Lets a client refuse by itself what the server would refuse anyway, by the rule of [`Throttle`].
///
/// A [`Loss`](Outcome::Loss) counts as refused by the server, a [`Success`](Outcome::Success) as accepted, and everything
/// else not at all. Put it around the client of one server, inside retries.
#[derive(Debug, Clone)]
pub struct ThrottleLayer<P = Any> {
    shared: Arc<Shared>,
    protocol: P,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    throttle: Throttle,
    log: ShedLog,
}

impl ThrottleLayer {
    /// Refusals are errors.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn new(config: ThrottleConfig) -> Result<Self, ConfigError> {
        Self::with("throttle", config, Any)
    }
}

impl ThrottleLayer<Http> {
    /// Refusals are answers: 503.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn http(config: ThrottleConfig) -> Result<Self, ConfigError> {
        Self::with("throttle", config, Http::new())
    }
}

impl<P> ThrottleLayer<P> {
    /// With this name in metrics and logs, and refusals as the protocol says.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn with(
        name: impl Into<Arc<str>>,
        config: ThrottleConfig,
        protocol: P,
    ) -> Result<Self, ConfigError> {
        let shared = Arc::new(Shared {
            name: name.into(),
            throttle: Throttle::new(config, clock::now())?,
            log: ShedLog::new(),
        });
        Ok(Self { shared, protocol })
    }

    /// What is counted for this priority, and what follows from it.
    #[must_use]
    pub fn snapshot(&self, priority: Priority) -> ThrottleSnapshot {
        self.shared.throttle.snapshot(priority, clock::now())
    }
}

impl<S, P: Clone> Layer<S> for ThrottleLayer<P> {
    type Service = Throttled<S, P>;

    fn layer(&self, inner: S) -> Throttled<S, P> {
        Throttled {
            inner,
            layer: self.clone(),
        }
    }
}

/// A client that throttles itself. Made by [`ThrottleLayer`].
#[derive(Debug, Clone)]
pub struct Throttled<S, P = Any> {
    inner: S,
    layer: ThrottleLayer<P>,
}

impl<S, P, R> Service<R> for Throttled<S, P>
where
    S: Service<R>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = GuardFuture<S::Future, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.layer.protocol.unready(error))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let ThrottleLayer { shared, protocol } = &self.layer;
        let priority = protocol.priority(&request);
        if shared.throttle.admit(priority, clock::now(), fastrand::f64) {
            let nack = Nack {
                shared: Some(Arc::clone(shared)),
                priority,
            };
            let future = self.inner.call(request);
            return GuardFuture::calling(future, Held::nack(nack), protocol.clone());
        }
        shared.log.shed(&shared.name, Reason::Throttled, priority);
        let shed = Shed::new(Reason::Throttled, priority);
        GuardFuture::refused(shed, protocol.clone())
    }
}

/// A request that went out, until it is known whether the server took it. One that is given up counts for nothing.
#[derive(Debug)]
pub(super) struct Nack {
    shared: Option<Arc<Shared>>,
    priority: Priority,
}

impl Nack {
    pub(super) fn settle(&mut self, outcome: Outcome) {
        if outcome == Outcome::AtEnd {
            return;
        }
        let Some(shared) = self.shared.take() else {
            return;
        };
        let accepted = match outcome {
            Outcome::Success => true,
            Outcome::Loss => false,
            Outcome::Ignored | Outcome::AtEnd => return,
        };
        shared
            .throttle
            .record(self.priority, accepted, clock::now());
    }
}
