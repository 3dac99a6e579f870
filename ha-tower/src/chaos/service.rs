use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower::BoxError;
use tower_service::Service;

use super::handle::Shared;
use super::layer::Matcher;
use super::{Body, Injected, MakeError, NoErrors, ResponseFuture, Target};

/// An HTTP service into which faults are injected. Made by [`ChaosLayer`](super::ChaosLayer).
#[derive(Clone)]
pub struct Chaos<S, M = NoErrors> {
    pub(super) inner: S,
    pub(super) shared: Arc<Shared>,
    pub(super) only: Option<Arc<Matcher>>,
    pub(super) errors: M,
}

impl<S: fmt::Debug, M> fmt::Debug for Chaos<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<S, M> Chaos<S, M> {
    /// What happens to this request.
    fn deal<B>(&self, request: &Request<B>) -> Option<Injected> {
        if !self.shared.on.load(Ordering::Relaxed) {
            return None;
        }
        let target = Target {
            method: request.method(),
            path: request.uri().path(),
        };
        if self.only.as_ref().is_some_and(|only| !only(target)) {
            return None;
        }
        Some(self.shared.deal()).filter(|injected| !injected.is_nothing())
    }
}

impl<S, M, B, R> Service<Request<B>> for Chaos<S, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    M: MakeError<S::Error> + Clone,
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, M, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(injected) = self.deal(&request) else {
            return ResponseFuture::passing(self.inner.call(request));
        };
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        ResponseFuture::injected(injected, inner, request, self.errors.clone())
    }
}
