use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::future::{ResponseFuture, Template};
use super::layer::Config;
use super::policy::Safety;
use crate::body::{BoxError, Buffered, Replay};
use crate::tried::Tried;

/// The service made by [`RetryLayer`](super::RetryLayer).
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, B, R> Service<Request<B>> for Retry<S>
where
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    S::Error: Error + 'static,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Buffered<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.config.budget.deposit(Instant::now().into_std());
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);

        if request.extensions().get::<Tried>().is_none() {
            request.extensions_mut().insert(Tried::new());
        }
        let safety = if self.config.attempts > 1 {
            Safety::of(&request, self.config.idempotency_key)
        } else {
            Safety::Once
        };
        let (head, body) = request.into_parts();
        let (body, replay) = Replay::new(body, self.config.replay_limit);
        let template = (safety != Safety::Once).then(|| Template::new(head.clone(), replay));
        let attempt = inner.call(Request::from_parts(head, body));
        ResponseFuture::new(inner, attempt, Arc::clone(&self.config), safety, template)
    }
}
