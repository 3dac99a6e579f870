use axum::Router;
use axum::routing::get;
use ha_tower::balance::Http;
use ha_tower::breaker::{BreakerLayer, Config};

fn main() {
    let layer = BreakerLayer::new(Config::default(), Http).unwrap();
    // A router's services do not fail: `into_http()` makes the layer that answers by itself.
    let _: Router = Router::new().route("/", get(|| async {})).layer(layer);
}
