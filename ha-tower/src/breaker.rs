//! Circuit breaker.

pub use ha_core::breaker::Config;
