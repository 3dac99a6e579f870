//! Registries on real stores.
#![allow(clippy::unwrap_used)]

mod cancel;
mod stores;
mod support;

#[path = "../polls/mod.rs"]
mod polls;
