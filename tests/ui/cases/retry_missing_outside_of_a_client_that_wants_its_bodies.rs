use std::convert::Infallible;

use bytes::Bytes;
use ha_tower::body::Replay;
use ha_tower::breaker::{BreakerLayer, Config};
use ha_tower::retry::RetryLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Service, ServiceBuilder, service_fn};

async fn client(_: Request<Replay<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // The retry is missing further out: it is what hands out bodies that can be sent again.
    let right = ServiceBuilder::new()
        .layer(RetryLayer::http())
        .layer(BreakerLayer::http(Config::default()).unwrap());
    serve::<Request<Full<Bytes>>>(right.service(service_fn(client)));
    let wrong = ServiceBuilder::new().layer(BreakerLayer::http(Config::default()).unwrap());
    serve::<Request<Full<Bytes>>>(wrong.service(service_fn(client)));
}
