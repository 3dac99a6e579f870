use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ha_core::breaker::Rejected;
use pin_project_lite::pin_project;
use tower::BoxError;
use tower_service::Service;

use super::call::Call;
use super::gate::Gate;
use super::{Classify, Error};
use crate::balance::Any;

/// A service behind a breaker. Made by [`BreakerLayer`](super::BreakerLayer).
#[derive(Debug, Clone)]
pub struct CircuitBreaker<S, C = Any> {
    gate: Gate<S, C>,
}

impl<S, C> CircuitBreaker<S, C> {
    pub(super) fn new(gate: Gate<S, C>) -> Self {
        Self { gate }
    }
}

impl<S, C, R> Service<R> for CircuitBreaker<S, C>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.gate
            .poll_ready(cx)
            .map_err(|error| Error::Service(error.into()))
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let step = match self.gate.call(request) {
            Ok(call) => Step::Calling { call },
            Err(rejected) => Step::Refused { rejected },
        };
        ResponseFuture { step }
    }
}

pin_project! {
    /// The way of one call through the breaker.
    ///
    /// # Cancel safety
    /// Dropping it gives the permit back at once. Nothing is counted, unless slow calls count and this one was slow already.
    pub struct ResponseFuture<F, C> {
        #[pin]
        step: Step<F, C>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F, C> {
        Calling { #[pin] call: Call<F, C> },
        Refused { rejected: Rejected },
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, C, Res, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res, E>,
{
    type Output = Result<Res, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProj::Refused { rejected } => Poll::Ready(Err(Error::Open {
                retry_in: rejected.retry_in,
            })),
            StepProj::Calling { call } => {
                call.poll(cx).map_err(|error| Error::Service(error.into()))
            }
        }
    }
}
