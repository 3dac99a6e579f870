use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::header::tell;

/// Writes what is left of a request's [`Deadline`](super::Deadline) into its headers, for clients that do not do so by
/// themselves. An [`Upstream`](crate::upstream::Upstream) does.
///
/// Put it innermost, right around the client: what is written is what is left when the call passes here.
#[derive(Clone, Copy, Debug, Default)]
pub struct PropagateLayer;

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Propagate<S> {
        Propagate { inner }
    }
}

/// The service made by [`PropagateLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Propagate<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Propagate<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        tell(&mut request);
        self.inner.call(request)
    }
}
