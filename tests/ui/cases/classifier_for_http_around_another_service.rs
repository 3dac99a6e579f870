use std::convert::Infallible;

use ha_tower::balance::Http;
use ha_tower::breaker::{BreakerLayer, Config};
use tower::{Layer, Service, service_fn};

async fn lookup(key: u64) -> Result<String, Infallible> {
    Ok(key.to_string())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let layer = BreakerLayer::new(Config::default(), Http).unwrap();
    // There is no status in a `String`: `Any` is the classifier for it.
    serve::<u64>(layer.layer(service_fn(lookup)));
}
