use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::{Presented, Shared};
use crate::postgres::Causal;

/// Puts a [`Causal`] into each request and the advanced token onto its response. See the [module](super).
#[derive(Clone)]
pub struct CausalService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> CausalService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: fmt::Debug> fmt::Debug for CausalService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CausalService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for CausalService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (token, refused) = match self.shared.read(request.headers()) {
            Presented::Token(token) => (Some(token), false),
            Presented::Nothing => (None, false),
            Presented::Refused => (None, true),
        };
        let causal = Causal::new(token);
        request.extensions_mut().insert(causal.clone());
        let inner = self.inner.call(request);
        ResponseFuture::new(inner, causal, token, refused, Arc::clone(&self.shared))
    }
}
