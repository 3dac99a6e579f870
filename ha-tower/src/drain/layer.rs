use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::CountedBody;
use super::handle::{Drain, InFlight};
use crate::health::DRAINING;

/// Counts requests in flight. While draining it says so in every response ([`health::DRAINING`](crate::health::DRAINING)), and asks
/// HTTP/1 clients to reconnect elsewhere. Made by [`Drain::layer`].
///
/// A request that passes two layers of the same drain counts once.
#[derive(Clone, Debug)]
pub struct DrainLayer {
    drain: Drain,
}

impl DrainLayer {
    pub(super) const fn new(drain: Drain) -> Self {
        Self { drain }
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            drain: self.drain.clone(),
        }
    }
}

/// The service made by [`DrainLayer`].
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    drain: Drain,
}

/// Request extension: an outer layer counts this request already, for this drain.
#[derive(Clone)]
struct CountedFor(Drain);

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let again = matches!(
            request.extensions_mut().insert(CountedFor(self.drain.clone())),
            Some(CountedFor(outer)) if outer.is(&self.drain)
        );
        let http1 = request.version() <= Version::HTTP_11;
        ResponseFuture {
            guard: (!again).then(|| self.drain.enter()),
            drain: self.drain.clone(),
            http1,
            response: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The response of [`Counted`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        response: F,
        drain: Drain,
        http1: bool,
        guard: Option<InFlight>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<CountedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.response.poll(cx));
        let guard = this.guard.take();
        let mut response = result?;
        // While not ready, connections still come in: only what stays would hold the drain up. A switch of protocols
        // needs the field for itself.
        if this.drain.has_started() {
            let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(DRAINING, HeaderValue::from_static("true"));
            if *this.http1 && !switching {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(Ok(response.map(|body| CountedBody::new(body, guard))))
    }
}
