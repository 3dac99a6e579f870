use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::Either;
use tower_service::Service;

use super::future::Asked;
use super::{Backup, Failures, ResponseFuture, When};

/// A service with a fallback. Made by [`FallbackLayer`](super::FallbackLayer).
#[derive(Debug, Clone)]
pub struct Fallback<S, K, W = Failures> {
    pub(super) inner: S,
    pub(super) backup: K,
    pub(super) when: W,
    pub(super) name: Arc<str>,
}

impl<S, K, W, B, R> Service<Request<B>> for Fallback<S, K, W>
where
    K: Backup<B>,
    S: Service<Request<K::Body>, Response = Response<R>>,
    W: When<Response<R>, S::Error> + Clone,
{
    type Response = Response<Either<R, K::ResponseBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, K, W, B, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (request, kept) = self.backup.keep(request);
        let asked = Asked {
            kept,
            backup: self.backup.clone(),
            when: self.when.clone(),
        };
        ResponseFuture::new(self.inner.call(request), asked, self.name.clone())
    }
}
