use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::call::Call;
use super::gate::Gate;
use super::handle::Shared;
use super::{Classify, Handle};
use crate::balance::Http;
use crate::body::Buffered;
use crate::problem::Problem;

/// What is said where nobody knows: a probe is out, or a person has opened it.
const SOON: Duration = Duration::from_secs(1);

/// Response extension: a breaker of this process was open, and this is its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How long until the next probe may go, as far as that is known.
    pub retry_in: Option<Duration>,
}

type Answer = dyn Fn(Open) -> Problem + Send + Sync;

/// Puts a breaker around an HTTP service. Refuses with `503 Service Unavailable`, `Retry-After` and a problem document, and leaves the service's
/// error as it is, so that it can be given to `Router::layer` and `Router::route_layer`.
///
/// `Retry-After` is the time until the next probe, or 1 s where that is not known. The answer carries the extensions
/// [`Open`] and [`LocalReply`](crate::problem::LocalReply).
#[derive(Clone)]
pub struct HttpBreakerLayer<C = Http> {
    shared: Arc<Shared>,
    classify: C,
    answer: Option<Arc<Answer>>,
}

impl<C> HttpBreakerLayer<C> {
    pub(super) fn new(shared: Arc<Shared>, classify: C) -> Self {
        Self {
            shared,
            classify,
            answer: None,
        }
    }

    /// Answers with the problem that `answer` makes, instead of the 503.
    #[must_use]
    pub fn answer(mut self, answer: impl Fn(Open) -> Problem + Send + Sync + 'static) -> Self {
        self.answer = Some(Arc::new(answer));
        self
    }

    /// A handle to the breaker.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }
}

impl<C: fmt::Debug> fmt::Debug for HttpBreakerLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBreakerLayer")
            .field("shared", &self.shared)
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone> Layer<S> for HttpBreakerLayer<C> {
    type Service = HttpBreaker<S, C>;

    fn layer(&self, inner: S) -> HttpBreaker<S, C> {
        HttpBreaker {
            gate: Gate::new(inner, self.shared.clone(), self.classify.clone()),
            answer: self.answer.clone(),
        }
    }
}

/// An HTTP service behind a breaker. Made by [`HttpBreakerLayer`].
#[derive(Clone)]
pub struct HttpBreaker<S, C = Http> {
    gate: Gate<S, C>,
    answer: Option<Arc<Answer>>,
}

impl<S: fmt::Debug, C: fmt::Debug> fmt::Debug for HttpBreaker<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBreaker")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

impl<S, C> HttpBreaker<S, C> {
    fn refuse<B: Body<Data = Bytes>>(&self, open: Open) -> Response<Buffered<B>> {
        let problem = match &self.answer {
            Some(answer) => answer(open),
            None => Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                .detail("the service behind this one has failed too often and is left alone for a while")
                .retry_after(open.retry_in.unwrap_or(SOON)),
        };
        let mut response = problem.into_response();
        response.extensions_mut().insert(open);
        response
    }
}

impl<S, C, A, B> Service<Request<A>> for HttpBreaker<S, C>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    C: Classify<Response<B>, S::Error> + Clone,
{
    type Response = Response<Buffered<B>>;
    type Error = S::Error;
    type Future = HttpResponseFuture<S::Future, C, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.gate.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let step = match self.gate.call(request) {
            Ok(call) => Step::Calling { call },
            Err(rejected) => {
                let retry_in = rejected.retry_in;
                let answer = Some(self.refuse(Open { retry_in }));
                Step::Refused { answer }
            }
        };
        HttpResponseFuture { step }
    }
}

pin_project! {
    /// The way of one request through a [`HttpBreaker`].
    ///
    /// # Cancel safety
    /// As for [`ResponseFuture`](super::ResponseFuture).
    pub struct HttpResponseFuture<F, C, B>
    where
        B: Body,
    {
        #[pin]
        step: Step<F, C, B>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F, C, B>
    where
        B: Body,
    {
        Calling { #[pin] call: Call<F, C> },
        Refused { answer: Option<Response<Buffered<B>>> },
    }
}

impl<F, C, B: Body> fmt::Debug for HttpResponseFuture<F, C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponseFuture").finish_non_exhaustive()
    }
}

impl<F, C, B, E> Future for HttpResponseFuture<F, C, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    C: Classify<Response<B>, E>,
{
    type Output = Result<Response<Buffered<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProj::Refused { answer } => match answer.take() {
                Some(answer) => Poll::Ready(Ok(answer)),
                None => panic!("response future polled after completion"),
            },
            StepProj::Calling { call } => call
                .poll(cx)
                .map_ok(|response| response.map(Buffered::stream)),
        }
    }
}
