//! Choosing an endpoint for each request.

mod policy;

pub use policy::{P2c, Policy, RoundRobin};
