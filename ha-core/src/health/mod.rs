//! Active checks: when the next one is due, and how many in a row it takes to change one's mind about an endpoint.
//!
//! One lost packet must not take an endpoint out, and one lucky answer must not bring a sick one back ([`Health`]). While the
//! last check disagrees with the current state, checks come faster, so that the decision falls soon. What an endpoint says
//! of itself (that it leaves, or that its region has lost what it shares) needs no second opinion.
//!
//! [`Agenda`] decides which of many endpoints is checked next, and how many at once.

mod agenda;
mod config;
mod machine;

pub use agenda::Agenda;
pub use config::{Config, Start};
pub use machine::{Finding, Health, State};
