use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ResponseFuture;
use super::gate::{Entry, Gate};
use super::{Any, Protocol};

/// A service behind a limit. Made by [`LimitLayer`](super::LimitLayer).
///
/// It decides when it is called, and is ready when the service inside is: in axum a route is always ready, and a limit that refused by
/// not being ready would refuse nothing.
#[derive(Debug, Clone)]
pub struct Limit<S, P = Any> {
    inner: S,
    gate: Arc<Gate>,
    protocol: P,
}

impl<S, P> Limit<S, P> {
    pub(super) const fn new(inner: S, gate: Arc<Gate>, protocol: P) -> Self {
        Self {
            inner,
            gate,
            protocol,
        }
    }
}

impl<S, P, R> Service<R> for Limit<S, P>
where
    S: Service<R> + Clone,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = ResponseFuture<S, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.protocol.unready(error))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let priority = self.protocol.priority(&request);
        let deadline = self.protocol.deadline(&request);
        let protocol = self.protocol.clone();
        match self.gate.enter(priority, deadline) {
            Entry::Permit(permit) => {
                let permit = permit.with_deadline(deadline);
                ResponseFuture::calling(self.inner.call(request), permit, protocol)
            }
            Entry::Waiting(waiting) => {
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                let priority = (priority, deadline);
                ResponseFuture::waiting(waiting, ready, request, priority, protocol)
            }
            Entry::Refused(reason) => {
                ResponseFuture::refused(self.gate.shed(reason, priority), protocol)
            }
        }
    }
}
