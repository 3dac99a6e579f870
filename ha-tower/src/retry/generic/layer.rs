use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::budget::{self, Budget};
use ha_core::config::ConfigError;
use tower_layer::Layer;
use tower_service::Service;

use super::future::{ResponseFuture, Spare};
use super::policy::Policy;
use crate::clock;
use crate::retry::builder::{self, Spend};
use crate::retry::terms::Terms;

/// Retries requests of any kind by a [`Policy`].
///
/// One layer has one budget: all services made from it, and their clones, share it.
#[derive(Debug)]
pub struct GenericLayer<P> {
    shared: Arc<Shared<P>>,
}

#[derive(Debug)]
pub(super) struct Shared<P> {
    pub(super) terms: Terms,
    pub(super) attempts: u32,
    pub(super) policy: P,
}

impl<P> GenericLayer<P> {
    pub(in crate::retry) fn new(policy: P) -> Self {
        Self::builder(policy).into_layer(Arc::new(Budget::standard(clock::now())))
    }

    /// The same, to change its numbers.
    pub fn builder(policy: P) -> Builder<P> {
        Builder {
            policy,
            name: Cow::Borrowed("generic"),
            attempts: 3,
            budget: Spend::default(),
            counts_requests: true,
            backoff: Backoff::default(),
            cap: Duration::from_secs(5),
        }
    }

    /// The budget of this layer, to share it with others that send to the same place.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.shared.terms.budget
    }
}

impl<P> Clone for GenericLayer<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S, P> Layer<S> for GenericLayer<P> {
    type Service = GenericRetry<S, P>;

    fn layer(&self, inner: S) -> GenericRetry<S, P> {
        GenericRetry {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Sets the numbers of a [`GenericLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<P> {
    policy: P,
    name: Cow<'static, str>,
    attempts: u32,
    budget: Spend,
    counts_requests: bool,
    backoff: Backoff,
    cap: Duration,
}

impl<P> Builder<P> {
    /// The name of this layer in metrics and events. Default `generic`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How often a request is sent at most, the first time included; from 1, which never retries, to 10. Default 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The size of the layer's own budget. Default 20 % of requests plus 10 per second over 10 s.
    pub fn budget(mut self, config: budget::Config) -> Self {
        self.budget = Spend::Own(config);
        self
    }

    /// A budget shared with other layers that send to the same place, hedges among them, instead of one of the layer's own.
    pub fn shared_budget(mut self, budget: Arc<Budget>) -> Self {
        self.budget = Spend::Shared(budget);
        self
    }

    /// Whether this layer counts the requests that pay for retries. Default true; see
    /// [`RetryLayer`](crate::retry::Builder::counts_requests).
    pub fn counts_requests(mut self, counts: bool) -> Self {
        self.counts_requests = counts;
        self
    }

    /// The waits between attempts. Default: full jitter from 25 ms, doubling, up to 250 ms.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The longest [`RetryAfter`](super::Verdict::RetryAfter) that is waited for; a longer one ends the retries. Default 5 s.
    pub fn retry_after_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, and its value: attempts outside of 1..=10, a budget or
    /// backoff out of range, or a cap of more than a day.
    pub fn build(self) -> Result<GenericLayer<P>, ConfigError> {
        builder::attempts(self.attempts)?;
        self.backoff.validate()?;
        ConfigError::at_most_a_day("retry.retry_after_cap", self.cap)?;
        let budget = self.budget.budget()?;
        Ok(self.into_layer(budget))
    }

    fn into_layer(self, budget: Arc<Budget>) -> GenericLayer<P> {
        let terms = Terms {
            name: self.name,
            budget,
            counts_requests: self.counts_requests,
            backoff: self.backoff,
            cap: self.cap,
        };
        GenericLayer {
            shared: Arc::new(Shared {
                terms,
                attempts: self.attempts,
                policy: self.policy,
            }),
        }
    }
}

/// The service made by [`GenericLayer`].
#[derive(Debug)]
pub struct GenericRetry<S, P> {
    inner: S,
    shared: Arc<Shared<P>>,
}

impl<S: Clone, P> Clone for GenericRetry<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S, P, Req> Service<Req> for GenericRetry<S, P>
where
    S: Service<Req> + Clone,
    P: Policy<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, P, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Shared {
            terms,
            attempts,
            policy,
        } = &*self.shared;
        terms.count_request();
        let copy = (*attempts > 1).then(|| policy.copy(&request)).flatten();
        let Some(copy) = copy else {
            return ResponseFuture::new(self.inner.call(request), None);
        };
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let attempt = inner.call(request);
        let spare = Spare::new(inner, copy, Arc::clone(&self.shared));
        ResponseFuture::new(attempt, Some(spare))
    }
}
