use std::io;

use ha_tower::retry::RetryLayer;
use tower::{Layer, Service, service_fn};

async fn lookup(key: u64) -> Result<String, io::Error> {
    Ok(key.to_string())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // A closure alone is no policy: `Classify::new` makes one of it.
    let layer = RetryLayer::generic(|result: Result<&String, &io::Error>| result.is_err());
    serve::<u64>(layer.layer(service_fn(lookup)));
}
