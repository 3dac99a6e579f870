use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ha_core::endpoint::EndpointKey;
use tower::BoxError;
use tower_service::Service;

use super::flight::Flight;
use super::{Error, Protocol};

pin_project_lite::pin_project! {
    /// The way of one request to its response.
    ///
    /// # Cancel safety
    /// Dropping it drops the call to the endpoint and gives back its place in flight and its breaker permit.
    pub struct ResponseFuture<S, R, P>
    where
        S: Service<R>,
    {
        // Before the flight, so that the call is gone when the place is given back.
        #[pin]
        step: Step<S, R, S::Future>,
        flight: Option<Flight>,
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
    pub(super) fn unavailable(protocol: P, known: usize) -> Self {
        Self {
            step: Step::Unavailable { known },
            flight: None,
            protocol,
        }
    }

    pub(super) fn picked(protocol: P, flight: Flight, service: S, request: R) -> Self {
        Self {
            step: Step::Waiting {
                service,
                request: Some(request),
            },
            flight: Some(flight),
            protocol,
        }
    }
}

impl<S: Service<R>, R, P> std::fmt::Debug for ResponseFuture<S, R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("endpoint", &self.flight.as_ref().and_then(Flight::key))
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
                    // Taken once: the step changes right here.
                    let Some(request) = request.take() else {
                        return Poll::Pending;
                    };
                    let future = service.call(request);
                    this.step.set(Step::Calling { future });
                }
                StepProj::Calling { future } => break ready!(future.poll(cx)),
            }
        };
        let verdict = this.protocol.classify(result.as_ref());
        // Before `finish` empties it.
        let endpoint = |flight: &Option<Flight>| -> Option<EndpointKey> {
            flight.as_ref().and_then(Flight::key).cloned()
        };
        Poll::Ready(match result {
            Ok(response) => match this.flight.take().and_then(|mut f| f.finish(&verdict)) {
                Some(in_flight) => Ok(this.protocol.finish(response, in_flight)),
                // Polled again after it was ready.
                None => return Poll::Pending,
            },
            Err(source) => {
                let endpoint = endpoint(this.flight);
                drop(this.flight.take().and_then(|mut f| f.finish(&verdict)));
                match endpoint {
                    Some(endpoint) => Err(Error::Endpoint {
                        endpoint,
                        source: source.into(),
                    }),
                    None => return Poll::Pending,
                }
            }
        })
    }
}
