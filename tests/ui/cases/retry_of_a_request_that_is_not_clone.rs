use std::io;

use ha_tower::retry::RetryLayer;
use ha_tower::retry::generic::OnError;
use tower::{Layer, Service, service_fn};

struct Order(u64);

async fn shop(order: Order) -> Result<u64, io::Error> {
    Ok(order.0)
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    // Another attempt needs another request.
    let layer = RetryLayer::generic(OnError);
    serve::<Order>(layer.layer(service_fn(shop)));
}
