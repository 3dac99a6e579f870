//! The PostgreSQL router, and what stands on it, on real servers.
#![allow(clippy::unwrap_used)]

mod causal_http;
mod failover;
mod idempotency;
mod reads;
mod support;
mod units;
