//! Stub.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "redis")]
pub mod redis;
