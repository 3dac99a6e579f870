//! The PostgreSQL router, and what stands on it, on real servers.
#![allow(clippy::unwrap_used)]

mod cancel;
mod causal_http;
mod failover;
mod idempotency;
mod reads;
mod savepoints;
mod support;
mod units;

#[path = "../polls/mod.rs"]
mod polls;
