//! Where endpoints come from.
//!
//! A source delivers whole sets; what changed is worked out here. An endpoint whose key stays keeps its state, a new
//! one starts without history, and one that is gone gets no new request while those in flight finish.

mod fixed;

pub use fixed::{FixedError, fixed};

use ha_core::endpoint::Endpoint;

/// A source of endpoint sets, made by [`fixed`] (or `dns` with the feature of that name).
#[derive(Debug)]
pub struct Source(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Fixed(Vec<Endpoint>),
}
