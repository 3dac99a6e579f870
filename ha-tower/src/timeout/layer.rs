use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseFuture;
use super::deadline::{Deadline, LONGEST, Untold};
use super::metrics::Side;
use super::reply::Form;
use crate::body::Buffered;
use crate::route::Policy;

/// Answers `504 Gateway Timeout` when the response head takes longer than the deadline.
///
/// Put it outside [`RetryLayer`](crate::retry::RetryLayer): all attempts and the waits between them share the deadline.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    limit: Duration,
    tell: bool,
}

impl TimeoutLayer {
    /// A deadline of `limit` after the call. A [`route::Policy`](crate::route::Policy) in the request's extensions that has
    /// a deadline of its own takes the place of `limit`.
    ///
    /// It does not cover the wait for the inner service to become ready, which comes before the call. With a limit of
    /// zero only an answer that is there at once passes; a limit of more than a day is one day.
    #[must_use]
    pub fn deadline(limit: Duration) -> Self {
        Self {
            limit: limit.min(LONGEST),
            tell: true,
        }
    }

    /// Whether what is left of the time is told to the endpoints, in [`TIMEOUT_MS`](super::TIMEOUT_MS) or `grpc-timeout`.
    /// Default true. Say no where requests go to somebody who should not learn it; then what a tier in front has
    /// told is taken off as well.
    #[must_use]
    pub const fn propagate(mut self, tell: bool) -> Self {
        self.tell = tell;
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            layer: *self,
        }
    }
}

/// The service made by [`TimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Timeout<S> {
    inner: S,
    layer: TimeoutLayer,
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<Buffered<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let form = Form::of(request.headers());
        let extensions = request.extensions_mut();
        let limit = extensions.get().and_then(Policy::deadline);
        let own = Deadline::after(Instant::now(), limit.unwrap_or(self.layer.limit));
        let deadline = own.narrow(extensions);
        if !self.layer.tell {
            extensions.insert(Untold);
        }
        ResponseFuture::called(self.inner.call(request), deadline, form, Side::Client)
    }
}
