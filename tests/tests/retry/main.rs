//! Retries through real sockets: servers that die, connections killed at random bytes, storms through three tiers, uploads too large
//! to keep, and calls of gRPC. Each beside what happens to whoever does it naively.
#![allow(clippy::unwrap_used)]

mod deaths;
mod grpc;
mod kills;
mod storm;
mod upload;

/// A breaker would end the load of a storm, and the kills: here retries are on their own.
fn never_trips() -> ha_tower::breaker::Config {
    let mut config = ha_tower::breaker::Config::default();
    config.consecutive_failures = u32::MAX;
    config.minimum_calls = u32::MAX;
    config
}
