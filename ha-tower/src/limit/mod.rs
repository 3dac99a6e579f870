//! Overload: how much is let in at once, how often, and who goes first.

mod key;

pub use ha_core::limit::{Priority, UnknownPriority};
pub use key::LimitKey;
