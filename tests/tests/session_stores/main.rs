//! Sessions on real servers: the same checks for every store, and each store's own outages.
#![allow(clippy::unwrap_used)]

mod cancel;
mod laws;
mod naive;
mod postgres;
mod redis;
mod rotated;
mod storm;
mod support;
mod tiered;
mod writers;

#[path = "../polls/mod.rs"]
mod polls;
