use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::BoxError;
use tower_service::Service;

use super::{Body, Fault, Injected, MakeError};

/// What is called when the delay is over.
struct Delayed<S, M, B> {
    inner: S,
    request: Request<B>,
    errors: M,
}

pin_project! {
    /// The way of one request through [`Chaos`](super::Chaos).
    ///
    /// # Cancel safety
    /// Dropping it during the delay leaves the service uncalled. It has been counted.
    pub struct ResponseFuture<S, M, B>
    where
        S: Service<Request<B>>,
    {
        injected: Option<Injected>,
        #[pin]
        step: Step<S::Future, Delayed<S, M, B>>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F, D> {
        Delay { #[pin] sleep: Sleep, then: Option<D> },
        Deal { then: Option<D> },
        Passing { #[pin] answer: F },
    }
}

impl<S, M, B> ResponseFuture<S, M, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn passing(answer: S::Future) -> Self {
        Self {
            injected: None,
            step: Step::Passing { answer },
        }
    }

    pub(super) fn injected(injected: Injected, inner: S, request: Request<B>, errors: M) -> Self {
        let then = Some(Delayed {
            inner,
            request,
            errors,
        });
        let step = match injected.delay {
            Some(delay) => Step::Delay {
                sleep: sleep(delay),
                then,
            },
            None => Step::Deal { then },
        };
        Self {
            injected: Some(injected),
            step,
        }
    }
}

impl<S, M, B> fmt::Debug for ResponseFuture<S, M, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("injected", &self.injected)
            .finish_non_exhaustive()
    }
}

impl<S, M, B, R> Future for ResponseFuture<S, M, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    M: MakeError<S::Error>,
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let then = match this.step.as_mut().project() {
                StepProj::Delay { sleep, then } => {
                    ready!(sleep.poll(cx));
                    then.take()
                }
                StepProj::Deal { then } => then.take(),
                StepProj::Passing { answer } => {
                    let response = ready!(answer.poll(cx))?.map(Body::own);
                    return Poll::Ready(Ok(mark(response, *this.injected)));
                }
            };
            let Some(Delayed {
                mut inner,
                request,
                errors,
            }) = then
            else {
                panic!("response future polled after completion")
            };
            let fault = this.injected.and_then(|injected| injected.fault);
            if fault == Some(Fault::Error)
                && let Some(error) = errors.error()
            {
                return Poll::Ready(Err(error));
            }
            let (status, body) = match fault {
                Some(Fault::Status(status)) => (status, Body::empty()),
                Some(Fault::Cut) => (StatusCode::OK, Body::cut()),
                _ => {
                    let answer = inner.call(request);
                    this.step.set(Step::Passing { answer });
                    continue;
                }
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            return Poll::Ready(Ok(mark(response, *this.injected)));
        }
    }
}

fn mark<B>(mut response: Response<B>, injected: Option<Injected>) -> Response<B> {
    if let Some(injected) = injected {
        response.extensions_mut().insert(injected);
    }
    response
}
