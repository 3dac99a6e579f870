//! Pure decisions for high availability.
//!
//! Nothing here opens a socket, spawns a task, reads a clock or draws a random number: every rule is a plain value
//! that takes `now` and randomness as arguments and returns what to do. That makes each rule testable by table and by
//! property, replayable from a seed, and usable outside any runtime. The shells that move bytes and time are
//! `ha-tower`, `ha-db` and `ha-session`.

// A test has to get its first instant from somewhere.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod condition;
pub mod config;
pub mod drain;
pub mod endpoint;
pub mod hash;
pub mod health;
pub mod hedge;
pub mod lease;
pub mod limit;
pub mod load;
pub mod marks;
pub mod outlier;
pub mod phi;
pub mod pick;
pub mod sign;
pub mod slow_start;
pub mod spread;
pub mod subset;

mod sync;
