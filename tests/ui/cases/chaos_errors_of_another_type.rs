use std::io;

use bytes::Bytes;
use ha_tower::chaos::{ChaosLayer, Faults};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

async fn shop(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, io::Error> {
    Ok(Response::default())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let layer = ChaosLayer::builder(1)
        .faults(Faults::none().errors(0.1))
        .error_with(|| "broken")
        .build()
        .unwrap();
    serve::<Request<Full<Bytes>>>(layer.layer(service_fn(shop)));
}
