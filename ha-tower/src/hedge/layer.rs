use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_core::budget::{self, Budget};
use ha_core::config::ConfigError;
use ha_core::hedge::{self, Delay, Percentile};
use http::request;
use tower_layer::Layer;

use super::metrics;
use super::over_http::Http;
use super::service::Hedge;
use crate::clock;

/// What is kept is kept per request.
const MOST_KEPT: usize = 64 * 1024 * 1024;

/// Hedges requests by the rules in the [module documentation](super).
///
/// All services made from one layer, and their clones, measure together and share one budget.
#[derive(Clone, Debug)]
pub struct HedgeLayer<P = Http> {
    shared: Arc<Shared>,
    policy: P,
}

/// What all services of a layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Box<str>,
    pub(super) hedge: hedge::Hedge,
    budget: Arc<Budget>,
    counts_requests: bool,
}

impl Shared {
    pub(super) fn count_request(&self) {
        if self.counts_requests {
            self.budget.deposit(clock::now());
        }
    }

    pub(super) fn ask(&self) -> Option<Granted> {
        let at = clock::now();
        if !self.budget.withdraw(at) {
            metrics::refused(&self.name);
            return None;
        }
        let budget = Some(Arc::clone(&self.budget));
        Some(Granted { budget, at })
    }
}

/// A hedge taken out of the budget. Goes back when it is dropped without having been sent.
#[derive(Debug)]
pub(super) struct Granted {
    budget: Option<Arc<Budget>>,
    at: Instant,
}

impl Granted {
    pub(super) fn sent(mut self) {
        self.budget = None;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.refund(self.at);
        }
    }
}

impl HedgeLayer {
    /// For HTTP, to change its numbers.
    pub fn builder() -> Builder {
        Self::of(Http::default())
    }
}

impl<P> HedgeLayer<P> {
    /// For requests of another kind: [`Generic`](super::Generic), or a [`Policy`](super::Policy) of yours.
    pub fn of(policy: P) -> Builder<P> {
        Builder {
            name: "hedge".into(),
            policy,
            config: hedge::Config::default(),
            budget: Spend::Own(budget::Config::default()),
            counts_requests: None,
            refused: None,
        }
    }

    /// The budget, to share it with other layers.
    #[must_use]
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.shared.budget)
    }

    /// After which time without an answer a request is hedged now; `None` as long as too few calls were measured.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.shared.hedge.delay(clock::now())
    }
}

/// Sets the numbers of a [`HedgeLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<P = Http> {
    name: Box<str>,
    policy: P,
    config: hedge::Config,
    budget: Spend,
    counts_requests: Option<bool>,
    // What build() says of a setting that only some policies have.
    refused: Option<ConfigError>,
}

#[derive(Clone, Debug)]
enum Spend {
    Own(budget::Config),
    Shared(Arc<Budget>),
}

impl<P> Builder<P> {
    /// How metrics and logs call this layer. Default `hedge`.
    pub fn name(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Hedges after this time. Default: the 95th percentile of what recent calls took.
    ///
    /// A fixed time needs no measurements, and hedges everything when all endpoints are slower than that; only the budget holds
    /// it then.
    pub const fn after(mut self, delay: Duration) -> Self {
        self.config.delay = Delay::Fixed(delay);
        self
    }

    /// Hedges after a percentile of what recent calls took. Default [`Percentile::default`]: the 95th of the last minute's, from 50
    /// calls on, between 1 ms and 1 s.
    ///
    /// Only requests that may be hedged are measured, all of a layer together: routes of quite different speed want a layer each, or
    /// a [`route::Policy`](crate::route::Policy) with a time of its own.
    pub const fn percentile(mut self, percentile: Percentile) -> Self {
        self.config.delay = Delay::Percentile(percentile);
        self
    }

    /// Hedges per request, 1 or 2, one delay after the other. Default 1.
    pub const fn max_hedges(mut self, hedges: u32) -> Self {
        self.config.max_hedges = hedges;
        self
    }

    /// The size of the layer's own budget. Default 20 % of requests plus 10 per second over 10 s.
    pub fn budget(mut self, config: budget::Config) -> Self {
        self.budget = Spend::Own(config);
        self
    }

    /// A budget shared with other layers that send to the same place, the retries first of all, instead of one of the layer's own.
    ///
    /// Requests are then counted by the others; see [`counts_requests`](Self::counts_requests).
    pub fn shared_budget(mut self, budget: Arc<Budget>) -> Self {
        self.budget = Spend::Shared(budget);
        self
    }

    /// Whether requests are counted into the budget here. Default: into a budget of the layer's own, not into a shared one, where
    /// the [`RetryLayer`](crate::retry::RetryLayer) around this one does. Of the layers that a request passes with a shared budget one has to
    /// count, and only one, or the share is not what it says.
    pub const fn counts_requests(mut self, counts: bool) -> Self {
        self.counts_requests = Some(counts);
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, and its value: a time of zero or more than a day, a percentile
    /// outside of 50.0..=99.9, bounds that are inverted, hedges other than 1 or 2, a budget out of range, or more than 64 MiB per
    /// request.
    pub fn build(self) -> Result<HedgeLayer<P>, ConfigError> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let now = clock::now();
        let hedge = hedge::Hedge::new(self.config, now)?;
        let (budget, own) = match self.budget {
            Spend::Own(config) => (Arc::new(Budget::new(config, now)?), true),
            Spend::Shared(budget) => (budget, false),
        };
        let shared = Shared {
            name: self.name,
            hedge,
            budget,
            counts_requests: self.counts_requests.unwrap_or(own),
        };
        Ok(HedgeLayer {
            shared: Arc::new(shared),
            policy: self.policy,
        })
    }
}

impl Builder<Http> {
    /// Whether a POST or PATCH with an `Idempotency-Key` may be hedged. Default false.
    ///
    /// The header promises nothing by itself. Say yes only where the server stores the outcome together with the write,
    /// answers a repeated key with it, and lets a second request with the same key wait for the first.
    pub const fn idempotency_key(mut self, honoured_by_the_server: bool) -> Self {
        self.policy.idempotency_key = honoured_by_the_server;
        self
    }

    /// Which other requests are safe to send twice, such as the reading methods of a gRPC service. Default none.
    pub fn idempotent(
        mut self,
        repeatable: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.policy.idempotent = Some(Arc::new(repeatable));
        self
    }

    /// How many bytes of a request body are kept for a hedge, at most 64 MiB. Default 64 KiB; a request with a larger body is not
    /// hedged. With 0 only requests without a body are.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.policy.replay_limit = bytes;
        self.refused = (bytes > MOST_KEPT).then(|| {
            ConfigError::new(
                "hedge.replay_limit",
                bytes,
                "must be at most 67108864 bytes (64 MiB) per request",
            )
        });
        self
    }
}

impl<S, P: Clone> Layer<S> for HedgeLayer<P> {
    type Service = Hedge<S, P>;

    fn layer(&self, inner: S) -> Hedge<S, P> {
        Hedge::new(inner, Arc::clone(&self.shared), self.policy.clone())
    }
}
