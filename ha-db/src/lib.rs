//! Connections to replicated stores that stay right while nodes come and go.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "postgres")]
pub mod postgres;

#[cfg(feature = "tower")]
pub mod causal;

#[cfg(feature = "postgres")]
pub mod idempotency;

#[cfg(feature = "redis")]
pub mod redis;
