//! Circuit breaker around one service.
//!
//! A [`Balance`](crate::balance::Balance) and an [`Upstream`](crate::upstream::Upstream) have one per endpoint built in, asked when an endpoint is
//! picked, so that an open one is passed over. This layer is for a service that stands alone: while the breaker is open, calls fail
//! at once with [`Error::Open`]. The rules are those of [`ha_core::breaker`].
//!
//! All services made by one [`BreakerLayer`] share one breaker, so that a layer that is applied per route or per
//! connection is still one breaker.
//!
//! ```
//! use ha_tower::balance::Any;
//! use ha_tower::breaker::{BreakerLayer, Config};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = BreakerLayer::new(Config::default(), Any)?;
//! let handle = layer.handle();
//! let service = ServiceBuilder::new()
//!     .layer(layer)
//!     .service(service_fn(|()| async { Ok::<_, std::io::Error>("answer") }));
//! assert_eq!(service.clone().oneshot(()).await?, "answer");
//!
//! handle.force_open();
//! assert!(service.oneshot(()).await.unwrap_err().is_open());
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ha_core::breaker::{Breaker, Outcome, Permit, Rejected};
use ha_core::config::ConfigError;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::balance::{Any, Protocol};
use crate::clock;

pub use ha_core::breaker::{Config, Snapshot, State};

/// Why a call through a breaker failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The breaker is open. Nothing was sent.
    #[error("circuit breaker is open")]
    Open {
        /// How long until the next probe may go, as far as that is known.
        retry_in: Option<Duration>,
    },
    /// The service failed.
    #[error("service behind the circuit breaker failed")]
    Service(#[source] BoxError),
}

impl Error {
    /// Whether the call was refused because the breaker is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// Watches and steers a breaker. Clones are the same breaker.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Breaker>);

impl Handle {
    /// What it does and has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot(clock::now())
    }

    /// Opens it until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    pub fn force_open(&self) {
        self.0.force_open();
    }

    /// Keeps it closed until [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn force_closed(&self) {
        self.0.force_closed();
    }

    /// Closes it and forgets what it counted and what was forced.
    pub fn reset(&self) {
        self.0.reset();
    }
}

/// Puts a breaker around a service.
#[derive(Debug, Clone)]
pub struct BreakerLayer<P = Any> {
    breaker: Arc<Breaker>,
    protocol: P,
}

impl<P> BreakerLayer<P> {
    /// One breaker for all services made by this layer. `protocol` says what is a failure:
    /// [`Any`] or [`Http`](crate::balance::Http), or your own.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense.
    pub fn new(config: Config, protocol: P) -> Result<Self, ConfigError> {
        let breaker = Arc::new(Breaker::new(config, clock::now())?);
        Ok(Self { breaker, protocol })
    }

    /// A handle to the breaker.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.breaker.clone())
    }
}

impl<S, P: Clone> Layer<S> for BreakerLayer<P> {
    type Service = CircuitBreaker<S, P>;

    fn layer(&self, inner: S) -> CircuitBreaker<S, P> {
        CircuitBreaker {
            inner,
            breaker: self.breaker.clone(),
            protocol: self.protocol.clone(),
        }
    }
}

/// A service behind a breaker. Made by [`BreakerLayer`].
#[derive(Debug, Clone)]
pub struct CircuitBreaker<S, P = Any> {
    inner: S,
    breaker: Arc<Breaker>,
    protocol: P,
}

impl<S, P, R> Service<R> for CircuitBreaker<S, P>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // An open breaker answers without the service, so that nobody waits for one that is never ready again.
        if !self.breaker.is_closed() && !self.breaker.would_admit(clock::now()) {
            return Poll::Ready(Ok(()));
        }
        self.inner
            .poll_ready(cx)
            .map_err(|e| Error::Service(e.into()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let step = match self.breaker.try_admit_with(clock::now) {
            Ok(permit) => Step::Calling {
                future: self.inner.call(request),
                ticket: Ticket {
                    breaker: self.breaker.clone(),
                    permit: Some(permit),
                },
            },
            Err(rejected) => Step::Refused { rejected },
        };
        ResponseFuture {
            step,
            protocol: self.protocol.clone(),
            request: std::marker::PhantomData,
        }
    }
}

/// Takes the outcome of an admitted call, and returns the new state if it changed.
pub(crate) fn settle(
    breaker: &Breaker,
    permit: Permit,
    outcome: Outcome,
    now: impl FnOnce() -> Instant,
) -> Option<State> {
    match outcome {
        Outcome::Success => breaker.succeed(permit, now),
        // Only what is no success opens it, and needs the spread.
        _ => breaker.record(permit, outcome, now(), fastrand::f64()),
    }
}

/// A permit that goes back when it is dropped without an outcome.
#[derive(Debug)]
struct Ticket {
    breaker: Arc<Breaker>,
    permit: Option<Permit>,
}

impl Ticket {
    fn settle(&mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let changed = settle(&self.breaker, permit, outcome, clock::now);
        if let Some(state) = changed {
            tracing::info!(?state, "circuit breaker changed");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.breaker.release(permit);
        }
    }
}

pin_project_lite::pin_project! {
    /// The way of one call through the breaker.
    ///
    /// # Cancel safety
    /// Dropping it gives the permit back without an outcome.
    pub struct ResponseFuture<F, R, P> {
        #[pin]
        step: Step<F>,
        protocol: P,
        request: std::marker::PhantomData<fn(R)>,
    }
}

pin_project_lite::pin_project! {
    #[project = StepProj]
    enum Step<F> {
        Calling { #[pin] future: F, ticket: Ticket },
        Refused { rejected: Rejected },
    }
}

impl<F, R, P> std::fmt::Debug for ResponseFuture<F, R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R, P, Res, E> Future for ResponseFuture<F, R, P>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    P: Protocol<R, Res, E>,
{
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.step.project() {
            StepProj::Refused { rejected } => Poll::Ready(Err(Error::Open {
                retry_in: rejected.retry_in,
            })),
            StepProj::Calling { future, ticket } => {
                let result = ready!(future.poll(cx));
                // Without an outcome the permit goes back when the ticket is dropped.
                if let Some(outcome) = this.protocol.classify(result.as_ref()).outcome {
                    ticket.settle(outcome);
                }
                Poll::Ready(result.map_err(|e| Error::Service(e.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt as _;
    use tower_test::mock;

    type Mock = mock::Mock<(), ()>;

    fn bed() -> (CircuitBreaker<Mock>, Handle, mock::Handle<(), ()>) {
        let (mock, inner) = mock::pair();
        let layer = BreakerLayer::new(Config::default(), Any).unwrap();
        (layer.layer(mock), layer.handle(), inner)
    }

    async fn fail(service: &CircuitBreaker<Mock>, inner: &mut mock::Handle<(), ()>) {
        let call = tokio::spawn(service.clone().oneshot(()));
        let ((), respond) = inner.next_request().await.unwrap();
        respond.send_error("broken");
        assert!(!call.await.unwrap().unwrap_err().is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_open_it_for_every_clone_and_a_good_probe_pair_closes_it() {
        let (service, handle, mut inner) = bed();
        for _ in 0..5 {
            fail(&service, &mut inner).await;
        }
        let error = service.clone().oneshot(()).await.unwrap_err();
        assert!(
            matches!(error, Error::Open { retry_in: Some(_) }),
            "{error:?}"
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        for state in [State::HalfOpen, State::Closed] {
            let call = tokio::spawn(service.clone().oneshot(()));
            let ((), respond) = inner.next_request().await.unwrap();
            assert!(
                service.clone().oneshot(()).await.unwrap_err().is_open(),
                "one at a time"
            );
            respond.send_response(());
            call.await.unwrap().unwrap();
            assert_eq!(handle.snapshot().state, state);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_answers_although_the_service_is_not_ready() {
        let (service, handle, mut inner) = bed();
        inner.allow(0);
        handle.force_open();
        assert!(service.oneshot(()).await.unwrap_err().is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_leaves_room_for_the_next() {
        let (service, handle, mut inner) = bed();
        for _ in 0..5 {
            fail(&service, &mut inner).await;
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut probe = service.clone();
        let probe = probe.ready().await.unwrap().call(());
        assert!(service.clone().oneshot(()).await.unwrap_err().is_open());
        drop(probe);
        assert_eq!(handle.snapshot().state, State::HalfOpen);
        let call = tokio::spawn(service.oneshot(()));
        while let Some(((), respond)) = inner.next_request().await {
            respond.send_response(());
            if call.is_finished() {
                break;
            }
            tokio::task::yield_now().await;
            if call.is_finished() {
                break;
            }
        }
        call.await.unwrap().unwrap();
    }
}
