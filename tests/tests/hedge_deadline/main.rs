//! Hedges and deadlines through real sockets: endpoints that stall now and then, and tiers whose caller goes away. Each beside what
//! happens without.
#![allow(clippy::unwrap_used)]

mod deadline;
mod grpc;
mod hedge;

use std::time::Duration;

use ha_tower::discover;
use ha_tower::upstream::{self, Upstream};
use tokio::time::Instant;

/// An upstream that leaves deciding to the layers around it.
fn upstream(urls: impl IntoIterator<Item = String>) -> upstream::Builder {
    let mut breaker = ha_tower::breaker::Config::default();
    breaker.consecutive_failures = u32::MAX;
    breaker.minimum_calls = u32::MAX;
    Upstream::builder("apps")
        .discover(discover::fixed(urls).unwrap())
        .breaker(breaker)
        .slow_start(None)
        .connect_timeout(Duration::from_secs(10))
        .attempt_timeout(Duration::from_secs(30))
}

/// Waits for the condition, with a deadline.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
