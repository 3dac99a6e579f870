use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower::BoxError;
use tower_service::Service;

use super::flight::Flight;
use super::{Error, Protocol};

pin_project_lite::pin_project! {
    /// The way of one request to its response.
    ///
    /// # Cancel safety
    /// Dropping it drops the call to the endpoint and gives back its place in flight and its breaker permit.
    ///
    /// # Panics
    /// When it is polled after it has given the response.
    pub struct ResponseFuture<S, R, P>
    where
        S: Service<R>,
    {
        // Before the flight, so that the call is gone when the place is given back.
        #[pin]
        step: Step<S, R, S::Future>,
        flight: Flight,
        protocol: P,
    }
}

pin_project_lite::pin_project! {
    #[project = StepProj]
    enum Step<S, R, F> {
        Waiting { service: S, request: Option<R> },
        Calling { #[pin] future: F },
        Unavailable { known: usize },
    }
}

impl<S: Service<R>, R, P> ResponseFuture<S, R, P> {
    #[inline]
    pub(super) fn unavailable(protocol: P, known: usize) -> Self {
        Self {
            step: Step::Unavailable { known },
            flight: Flight::default(),
            protocol,
        }
    }

    /// The flight, to be started where it stays: a copy of it costs as much as the pick.
    pub(super) fn flight(&mut self) -> &mut Flight {
        &mut self.flight
    }

    #[inline]
    pub(super) fn wait_for(&mut self, service: S, request: R) {
        self.step = Step::Waiting {
            service,
            request: Some(request),
        };
    }
}

impl<S: Service<R>, R, P> std::fmt::Debug for ResponseFuture<S, R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("endpoint", &self.flight.key())
            .finish_non_exhaustive()
    }
}

impl<S, R, P> Future for ResponseFuture<S, R, P>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    P: Protocol<R, S::Response, S::Error>,
{
    type Output = Result<P::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.step.as_mut().project() {
                StepProj::Unavailable { known } => {
                    return Poll::Ready(Err(Error::Unavailable { known: *known }));
                }
                StepProj::Waiting { service, request } => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(error);
                    }
                    let Some(request) = request.take() else {
                        unreachable!("taken once: the step changes right here")
                    };
                    let future = service.call(request);
                    this.step.set(Step::Calling { future });
                }
                StepProj::Calling { future } => break ready!(future.poll(cx)),
            }
        };
        let verdict = this.protocol.classify(result.as_ref());
        let in_flight = this.flight.finish(&verdict);
        Poll::Ready(match result {
            Ok(response) => Ok(this.protocol.finish(response, in_flight)),
            Err(source) => Err(Error::Endpoint {
                endpoint: in_flight.key().clone(),
                source: source.into(),
            }),
        })
    }
}
