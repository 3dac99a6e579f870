//! Layers and services for calling many endpoints as if they were one.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod balance;
pub mod body;
pub mod breaker;
pub mod discover;
pub mod drain;
pub mod health;
pub mod problem;
pub mod proxy;
pub mod retry;
pub mod timeout;
pub mod tried;
pub mod upstream;

mod clock;
mod task;
