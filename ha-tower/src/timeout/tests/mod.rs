//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

mod client;
#[cfg(feature = "metrics")]
mod metrics;
mod propagated;
mod server;
