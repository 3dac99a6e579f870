use std::convert::Infallible;

use bytes::Bytes;
use ha_tower::fallback::FallbackLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

async fn shop(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

async fn sorry(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // The body has been sent: `from_head` gives the head and the reason, `service` the whole request.
    let layer = FallbackLayer::answer(sorry).build().unwrap();
    serve::<Request<Full<Bytes>>>(layer.layer(service_fn(shop)));
}
