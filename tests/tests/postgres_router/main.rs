//! The PostgreSQL router, and what stands on it, on real servers.
#![allow(clippy::unwrap_used)]

mod cancel;
mod causal_http;
mod deadlines;
mod failover;
mod faults;
mod idempotency;
mod in_doubt;
mod lag;
mod losses;
mod pgbouncer;
mod pools;
mod problems;
mod promotion;
mod reads;
mod reprobe;
mod runs;
mod savepoints;
mod support;
mod synchronous;
mod tls;
mod units;

#[path = "../polls/mod.rs"]
mod polls;
