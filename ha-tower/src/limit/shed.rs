use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::gate::ShedLog;
use super::guard::GuardFuture;
use super::{Any, Held, Http, Protocol, Reason, Shed};

/// Refuses at once what the service inside is not ready for.
///
/// Services that limit themselves by not being ready, such as tower's `ConcurrencyLimit`, `RateLimit` and `Buffer`, make callers wait without a
/// bound. With this around them the caller is told. A [`LimitLayer`](super::LimitLayer) refuses by itself and needs none.
#[derive(Debug, Clone)]
pub struct LoadShedLayer<P = Any> {
    name: Arc<str>,
    log: Arc<ShedLog>,
    protocol: P,
}

impl LoadShedLayer {
    /// Refusals are errors.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Any)
    }
}

impl LoadShedLayer<Http> {
    /// Refusals are answers: 503.
    #[must_use]
    pub fn http() -> Self {
        Self::with(Http::new())
    }
}

impl Default for LoadShedLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> LoadShedLayer<P> {
    /// Refusals are what the protocol says.
    #[must_use]
    pub fn with(protocol: P) -> Self {
        Self {
            name: Arc::from("load_shed"),
            log: Arc::new(ShedLog::new()),
            protocol,
        }
    }

    /// The name in metrics and logs. Default `load_shed`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }
}

impl<S, P: Clone> Layer<S> for LoadShedLayer<P> {
    type Service = LoadShed<S, P>;

    fn layer(&self, inner: S) -> LoadShed<S, P> {
        LoadShed {
            inner,
            ready: false,
            layer: self.clone(),
        }
    }
}

/// A service that is always ready. Made by [`LoadShedLayer`].
#[derive(Debug)]
pub struct LoadShed<S, P = Any> {
    inner: S,
    ready: bool,
    layer: LoadShedLayer<P>,
}

impl<S: Clone, P: Clone> Clone for LoadShed<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            // Readiness belongs to the instance that was polled.
            ready: false,
            layer: self.layer.clone(),
        }
    }
}

impl<S, P, R> Service<R> for LoadShed<S, P>
where
    S: Service<R>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = GuardFuture<S::Future, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.ready = match self.inner.poll_ready(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(self.layer.protocol.unready(error)));
            }
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let LoadShedLayer {
            name,
            log,
            protocol,
        } = &self.layer;
        if std::mem::take(&mut self.ready) {
            let future = self.inner.call(request);
            return GuardFuture::calling(future, Held::nothing(), protocol.clone());
        }
        let priority = protocol.priority(&request);
        log.shed(name, Reason::NotReady, priority);
        GuardFuture::refused(Shed::new(Reason::NotReady, priority), protocol.clone())
    }
}
