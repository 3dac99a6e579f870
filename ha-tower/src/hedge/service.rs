use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::Shared;
use super::over_http::Http;
use super::policy::{Classify, Policy};

/// The service made by [`HedgeLayer`](super::HedgeLayer).
#[derive(Clone, Debug)]
pub struct Hedge<S, P = Http> {
    inner: S,
    shared: Arc<Shared>,
    policy: P,
}

impl<S, P> Hedge<S, P> {
    pub(super) const fn new(inner: S, shared: Arc<Shared>, policy: P) -> Self {
        Self {
            inner,
            shared,
            policy,
        }
    }
}

impl<S, P, R> Service<R> for Hedge<S, P>
where
    P: Policy<R> + Classify<S::Response, S::Error> + Clone,
    S: Service<P::Inner> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, P::Inner, P::Template, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.shared.count_request();
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let split = self.policy.split(request);
        ResponseFuture::new(inner, split, Arc::clone(&self.shared), self.policy.clone())
    }
}
