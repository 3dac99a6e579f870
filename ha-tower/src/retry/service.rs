use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::future::{ResponseFuture, Template};
use super::layer::Config;
use super::policy::{Safety, is_copied};
use super::{MARKER, Override, Telling, report};
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
    S::Error: Telling,
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let config = &self.config;
        config.terms.count_request();
        let (mut head, body) = request.into_parts();
        let overriding = Override::of(&head.extensions);
        let attempts = overriding.attempts_or(config.attempts);
        let mut safety = Safety::Once;
        if attempts > 1 {
            safety = config.rules.safety(&head, overriding);
            if !is_copied(&head.headers) {
                report::bad_header(&config.terms.name, "too_many");
                safety = Safety::Once;
            }
        }
        if safety == Safety::Once {
            let attempt = self
                .inner
                .call(Request::from_parts(head, Replay::once(body)));
            return ResponseFuture::new(attempt, Arc::clone(config), safety, attempts, None);
        }
        if head.extensions.get::<Tried>().is_none() {
            head.extensions.insert(Tried::new());
        }
        if safety == Safety::Idempotent {
            head.headers.insert(MARKER, HeaderValue::from_static("1"));
        }
        let (body, replay) = Replay::new(body, config.replay_limit);
        let copy = head.clone();
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let attempt = inner.call(Request::from_parts(head, body));
        let template = Template::new(inner, copy, replay);
        let config = Arc::clone(&self.config);
        ResponseFuture::new(attempt, config, safety, attempts, Some(template))
    }
}
