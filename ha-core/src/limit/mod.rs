//! How much work may be under way at once, and who is let in when not all can be.

mod priority;

pub use priority::{Priority, UnknownPriority};
