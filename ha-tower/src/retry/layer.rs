use std::sync::Arc;
use std::time::Duration;

use ha_core::budget::Budget;
use http::HeaderName;
use tower_layer::Layer;

use super::builder::Builder;
use super::generic::GenericLayer;
use super::policy::Rules;
use super::service::Retry;
use super::terms::Terms;
use crate::clock;

/// More attempts than this are a storm and not a retry.
pub(super) const MOST_ATTEMPTS: u32 = 10;

/// Retries HTTP requests or gRPC calls by the rules in the [module documentation](super).
///
/// One layer has one budget: all services made from it, and their clones, share it.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    config: Arc<Config>,
}

#[derive(Debug)]
pub(super) struct Config {
    pub(super) terms: Terms,
    pub(super) rules: Rules,
    pub(super) attempts: u32,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) replay_limit: usize,
    pub(super) hold_limit: u64,
    pub(super) hold_stall: Duration,
    pub(super) attempts_header: Option<HeaderName>,
}

impl RetryLayer {
    /// The HTTP policy with its defaults.
    ///
    /// The service inside fails with a [`std::error::Error`]; where that is a `BoxError`, [`Boxed`](super::Boxed) makes one of it.
    #[must_use]
    pub fn http() -> Self {
        Self::builder().into_layer(Arc::new(Budget::standard(clock::now())))
    }

    /// The gRPC policy with its defaults: until [`Builder::idempotent`] declares methods, only calls that provably never
    /// reached the application are made again.
    #[must_use]
    pub fn grpc() -> Self {
        Self::grpc_builder().into_layer(Arc::new(Budget::standard(clock::now())))
    }

    /// Retries by a policy of yours, for any tower service; see [`generic`](super::generic).
    #[must_use]
    pub fn generic<P>(policy: P) -> GenericLayer<P> {
        GenericLayer::new(policy)
    }

    /// The HTTP policy, to change its numbers.
    pub fn builder() -> Builder {
        Builder::http()
    }

    /// The gRPC policy, to declare methods and change its numbers.
    pub fn grpc_builder() -> Builder {
        Builder::grpc()
    }

    /// The budget of this layer, to share it with others that send to the same place.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.config.terms.budget
    }

    pub(super) fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, Arc::clone(&self.config))
    }
}
