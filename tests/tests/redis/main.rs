//! The Redis connection on real servers.
#![allow(clippy::unwrap_used)]

mod bounds;
mod cluster;
mod cluster_faults;
mod copies;
mod secure;
mod sentinel;
mod single;
mod support;

#[path = "../polls/mod.rs"]
mod polls;
