//! How much work may be under way at once, and who is let in when not all can be.
//!
//! A server that accepts whatever comes does its worst work when it matters most: everything waits, callers give up, and
//! what is finished is finished for nobody. The parts here decide early. All are plain values: they take `now` and random
//! numbers as arguments, and the layers of `ha-tower` drive them.
//!
//! - [`Places`] counts what is under way against a limit, without a lock.
//! - [`Adaptive`] finds that limit from latency and losses ([`Algorithm`]).
//! - [`Queue`] keeps those who wait for a place: by [`Priority`], bounded, with controlled delay.
//! - [`Throttle`] lets a client refuse by itself what the server would refuse anyway.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use ha_core::limit::{Adaptive, AdaptiveConfig, Ending, Places};
//!
//! # #[allow(clippy::disallowed_methods)]
//! let start = Instant::now();
//! let adaptive = Adaptive::new(AdaptiveConfig::default(), start)?;
//! let places = Places::new(adaptive.limit());
//! let in_flight = places.try_enter(u32::MAX).expect("nothing is under way");
//!
//! let now = start + Duration::from_millis(8);
//! places.leave();
//! let ending = Ending::Answered(Duration::from_millis(8));
//! if let Some(change) = adaptive.record(ending, in_flight, now, || 0.5) {
//!     places.set_limit(change.to);
//! }
//! assert_eq!(places.in_flight(), 0);
//! # Ok::<(), ha_core::config::ConfigError>(())
//! ```

mod adaptive;
mod places;
mod priority;
mod queue;
mod throttle;

pub use adaptive::{
    Adaptive, AdaptiveConfig, AdaptiveSnapshot, Aimd, Algorithm, Change, Ending, Gradient2, Vegas,
};
pub use places::Places;
pub use priority::{Priority, UnknownPriority};
pub use queue::{Cause, Order, Pushed, Queue, QueueConfig, Ticket};
pub use throttle::{Throttle, ThrottleConfig, ThrottleSnapshot};

#[cfg(all(test, not(ha_loom)))]
mod tests;

#[cfg(all(test, ha_loom))]
mod loom;
