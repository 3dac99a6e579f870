use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use ha_tower::body::Replay;
use ha_tower::fallback::FallbackLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

struct Cache;

impl Service<Request<Replay<Full<Bytes>>>> for Cache {
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

async fn shop(_: Request<Replay<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let layer = FallbackLayer::service(Cache).build().unwrap();
    serve::<Request<Full<Bytes>>>(layer.layer(service_fn(shop)));
}
