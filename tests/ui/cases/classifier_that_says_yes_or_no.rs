use std::io;

use ha_tower::breaker::{BreakerLayer, Config};
use tower::{Layer, Service, service_fn};

async fn lookup(key: u64) -> Result<String, io::Error> {
    Ok(key.to_string())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let failed = |result: Result<&String, &io::Error>| result.is_err();
    let layer = BreakerLayer::new(Config::default(), failed).unwrap();
    // Not yes or no, but a `Verdict`.
    serve::<u64>(layer.layer(service_fn(lookup)));
}
