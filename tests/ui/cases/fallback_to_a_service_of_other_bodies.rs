use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use ha_tower::fallback::FallbackLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};

#[derive(Clone)]
struct Shop;

impl Service<Request<Full<Bytes>>> for Shop {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // The body goes to two services: both get it as `Replay<Full<Bytes>>`.
    let layer = FallbackLayer::service(Shop).build().unwrap();
    serve::<Request<Full<Bytes>>>(layer.layer(Shop));
}
