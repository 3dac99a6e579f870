//! The layer at the level of requests and answers, on the memory store.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used)]

mod changes;
mod conflicts;
mod cookies;
mod degraded;
mod endings;
mod observed;
mod principal;
mod rotation;
mod store_use;
mod support;
mod unconfirmed;
mod unknown;
mod websocket;
