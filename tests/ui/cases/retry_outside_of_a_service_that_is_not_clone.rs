use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use ha_tower::body::Replay;
use ha_tower::retry::RetryLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};

struct Client;

impl Service<Request<Replay<Full<Bytes>>>> for Client {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Replay<Full<Bytes>>>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // Each attempt is a call of its own, perhaps while the one before is still being taken down.
    serve::<Request<Full<Bytes>>>(RetryLayer::http().layer(Client));
}
