//! What the attempts and connections of an upstream are counted in. Names and labels are documented in the
//! [`upstream`](super) module; without the feature `metrics` everything here is empty.

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;

#[cfg(not(feature = "metrics"))]
pub(super) use off::{Attempted, Meter, Up, unavailable};
#[cfg(feature = "metrics")]
pub(super) use on::{Attempted, Meter, Up, unavailable};
