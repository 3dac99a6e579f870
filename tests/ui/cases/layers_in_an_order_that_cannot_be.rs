use std::time::Duration;

use axum::Router;
use axum::routing::get;
use ha_tower::balance::Http;
use ha_tower::breaker::{BreakerLayer, Config};
use ha_tower::timeout::TimeoutLayer;
use tower::ServiceBuilder;

fn main() {
    let breaker = BreakerLayer::new(Config::default(), Http).unwrap();
    // What is outside of a breaker that fails must take its errors; a timeout that answers passes them on, and a router takes none.
    let wrong = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(Duration::from_secs(1)))
        .layer(breaker);
    let _: Router = Router::new().route("/", get(|| async {})).layer(wrong);
}
