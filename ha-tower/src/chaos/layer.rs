use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use ha_core::config::ConfigError;
use http::Method;
use tower_layer::Layer;

use super::handle::{Shared, check};
use super::{Chaos, Faults, Handle};

/// All that a matcher is shown of a request. What a client can choose freely (headers, query, body) is not among it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Target<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, without the query.
    pub path: &'a str,
}

pub(super) type Matcher = dyn Fn(Target<'_>) -> bool + Send + Sync;

/// Makes the errors that are injected: [`NoErrors`], or the closure of [`Builder::error_with`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make errors of the type `{E}`",
    label = "the error must be that of the service",
    note = "give `error_with` a closure that returns the service's own error type; in an axum router that is `Infallible`, and only statuses, delays and cuts can be injected"
)]
pub trait MakeError<E> {
    /// An error, if it can make one.
    fn error(&self) -> Option<E>;
}

/// Makes no errors.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoErrors;

impl<E> MakeError<E> for NoErrors {
    fn error(&self) -> Option<E> {
        None
    }
}

/// Makes errors by a closure.
#[derive(Clone, Copy)]
pub struct ErrorFrom<F>(F);

impl<F> fmt::Debug for ErrorFrom<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorFrom")
    }
}

impl<E, F: Fn() -> E> MakeError<E> for ErrorFrom<F> {
    fn error(&self) -> Option<E> {
        Some((self.0)())
    }
}

/// Injects faults into an HTTP service. See the [module](super) for the rules.
///
/// All services made from one layer, and their clones, share one switch and one order of faults.
#[derive(Clone)]
pub struct ChaosLayer<M = NoErrors> {
    shared: Arc<Shared>,
    only: Option<Arc<Matcher>>,
    errors: M,
}

impl ChaosLayer {
    /// A layer that deals faults in the order that `seed` stands for.
    pub fn builder(seed: u64) -> Builder {
        Builder {
            seed,
            name: "default".into(),
            faults: Faults::none(),
            started: false,
            has_errors: false,
            only: None,
            errors: NoErrors,
        }
    }
}

impl<M> ChaosLayer<M> {
    /// A handle to the layer.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }
}

impl<M> fmt::Debug for ChaosLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<S, M: Clone> Layer<S> for ChaosLayer<M> {
    type Service = Chaos<S, M>;

    fn layer(&self, inner: S) -> Chaos<S, M> {
        Chaos {
            inner,
            shared: self.shared.clone(),
            only: self.only.clone(),
            errors: self.errors.clone(),
        }
    }
}

/// Sets up a [`ChaosLayer`].
#[must_use = "nothing happens before build()"]
pub struct Builder<M = NoErrors> {
    seed: u64,
    name: Arc<str>,
    faults: Faults,
    started: bool,
    has_errors: bool,
    only: Option<Arc<Matcher>>,
    errors: M,
}

impl<M> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("seed", &self.seed)
            .field("name", &self.name)
            .field("faults", &self.faults)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl<M> Builder<M> {
    /// The name in logs and metrics. Default `default`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// What goes wrong. Default nothing.
    pub const fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Whether things go wrong from the start. Default false: somebody has to [start](Handle::start) it.
    pub const fn started(mut self, started: bool) -> Self {
        self.started = started;
        self
    }

    /// Only requests for which `only` says so can be hit. Default all.
    pub fn only(mut self, only: impl Fn(Target<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(only));
        self
    }

    /// Makes the errors of [`Faults::errors`]. Default none: in an axum router a service has no errors.
    pub fn error_with<F>(self, make: F) -> Builder<ErrorFrom<F>> {
        Builder {
            seed: self.seed,
            name: self.name,
            faults: self.faults,
            started: self.started,
            has_errors: true,
            only: self.only,
            errors: ErrorFrom(make),
        }
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] as for [`Faults::validate`], and when errors are wanted and nobody makes them.
    pub fn build(self) -> Result<ChaosLayer<M>, ConfigError> {
        check(&self.faults, self.has_errors)?;
        Ok(ChaosLayer {
            shared: Arc::new(Shared {
                name: self.name,
                seed: self.seed,
                on: AtomicBool::new(self.started),
                faults: ArcSwap::from_pointee(self.faults),
                has_errors: self.has_errors,
                next: AtomicU64::new(0),
                delays: AtomicU64::new(0),
                errors: AtomicU64::new(0),
                statuses: AtomicU64::new(0),
                cuts: AtomicU64::new(0),
            }),
            only: self.only,
            errors: self.errors,
        })
    }
}
