use std::sync::Arc;

use ha_core::config::ConfigError;
use http::request;
use tower_layer::Layer;

use super::{Answer, Elsewhere, Failures, Fallback, FromHead, Reason};

/// What is kept is kept per request.
const MOST_KEPT: usize = 64 * 1024 * 1024;

/// Gives an answer from somewhere else when the service fails. See the [module](super) for the rules.
///
/// The fallback is cloned for every request, so it should be cheap to clone.
#[derive(Debug, Clone)]
pub struct FallbackLayer<K, W = Failures> {
    backup: K,
    when: W,
    name: Arc<str>,
}

impl<F> FallbackLayer<Answer<F>> {
    /// A closure that is told why, and returns a future of a response. Nothing is kept of the request.
    pub fn answer<Fut>(answer: F) -> Builder<Answer<F>>
    where
        // Asked here already, or the compiler could not infer the types of a closure's arguments.
        F: Fn(Reason) -> Fut,
        Fut: Future,
    {
        Builder::new(Answer(answer))
    }
}

impl<F> FallbackLayer<FromHead<F>> {
    /// A closure that gets the head of the request and why, and returns a future of a response. Costs every request a copy of its head.
    pub fn from_head<Fut>(answer: F) -> Builder<FromHead<F>>
    where
        F: Fn(request::Parts, Reason) -> Fut,
        Fut: Future,
    {
        Builder::new(FromHead(answer))
    }
}

impl<S: Clone> FallbackLayer<Elsewhere<S>> {
    /// Another service, which gets the request. Costs every request a copy of its head, and memory for its body up to
    /// [`replay_limit`](Builder::replay_limit).
    pub fn service(service: S) -> Builder<Elsewhere<S>> {
        Builder::new(Elsewhere {
            service,
            replay_limit: 64 * 1024,
            any_method: false,
        })
    }
}

impl<S, K: Clone, W: Clone> Layer<S> for FallbackLayer<K, W> {
    type Service = Fallback<S, K, W>;

    fn layer(&self, inner: S) -> Fallback<S, K, W> {
        Fallback {
            inner,
            backup: self.backup.clone(),
            when: self.when.clone(),
            name: self.name.clone(),
        }
    }
}

/// Sets up a [`FallbackLayer`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before build()"]
pub struct Builder<K, W = Failures> {
    backup: K,
    when: W,
    name: Arc<str>,
}

impl<K> Builder<K> {
    fn new(backup: K) -> Self {
        Self {
            backup,
            when: Failures::default(),
            name: "default".into(),
        }
    }
}

impl<K, W> Builder<K, W> {
    /// The name in logs and metrics. Default `default`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// When the fallback is asked: [`Failures`], which is the default, or a closure; see [`When`](super::When).
    pub fn when<V>(self, when: V) -> Builder<K, V> {
        Builder {
            backup: self.backup,
            when,
            name: self.name,
        }
    }
}

impl<F, W> Builder<Answer<F>, W> {
    /// The layer.
    ///
    /// # Errors
    /// None so far: a closure has no setting that could make no sense.
    pub fn build(self) -> Result<FallbackLayer<Answer<F>, W>, ConfigError> {
        Ok(self.done())
    }
}

impl<F, W> Builder<FromHead<F>, W> {
    /// The layer.
    ///
    /// # Errors
    /// None so far: a closure has no setting that could make no sense.
    pub fn build(self) -> Result<FallbackLayer<FromHead<F>, W>, ConfigError> {
        Ok(self.done())
    }
}

impl<S, W> Builder<Elsewhere<S>, W> {
    /// How many bytes of a request body are kept, at most 64 MiB. Default 64 KiB; a request with a larger body that has been read gets no
    /// fallback.
    pub const fn replay_limit(mut self, bytes: usize) -> Self {
        self.backup.replay_limit = bytes;
        self
    }

    /// Whether the fallback may also get a POST or PATCH that the first service has seen. Default false: it may have done the work
    /// before it failed. Say yes where doing it twice, once in each service, does no harm.
    pub const fn any_method(mut self, harmless: bool) -> Self {
        self.backup.any_method = harmless;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] when more than 64 MiB per request are to be kept.
    pub fn build(self) -> Result<FallbackLayer<Elsewhere<S>, W>, ConfigError> {
        if self.backup.replay_limit > MOST_KEPT {
            return Err(ConfigError::new(
                "fallback.replay_limit",
                self.backup.replay_limit,
                "must be at most 67108864 bytes (64 MiB) per request",
            ));
        }
        Ok(self.done())
    }
}

impl<K, W> Builder<K, W> {
    fn done(self) -> FallbackLayer<K, W> {
        FallbackLayer {
            backup: self.backup,
            when: self.when,
            name: self.name,
        }
    }
}
