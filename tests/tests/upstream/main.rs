//! `Upstream` on real sockets: what is broken gets no traffic, and the naive way shows that it would.
#![allow(clippy::unwrap_used)]

mod app;
mod checks;
mod connections;
mod discover;
mod dns;
mod events;
mod grpc;
mod health;
mod ramp;
mod regions;
mod rules;
mod wait;

#[path = "../polls/mod.rs"]
mod polls;
