//! Connections to replicated stores that stay right while nodes come and go.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "postgres")]
pub mod postgres;
