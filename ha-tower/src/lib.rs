//! Layers and services for calling many endpoints as if they were one.

pub mod balance;
pub mod breaker;
pub mod discover;
pub mod health;
pub mod tried;
pub mod upstream;

mod clock;
mod task;
