//! Retries for any tower service, by a policy of yours.
//!
//! The attempts, the waits, the budget and its handle are those of the [module above](super); what a request and an
//! outcome mean is said by a [`Policy`]. The service is made by [`RetryLayer::generic`](super::RetryLayer::generic):
//!
//! ```
//! use std::time::Duration;
//!
//! use ha_tower::retry::RetryLayer;
//! use ha_tower::retry::generic::{Policy, Verdict};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Clone)]
//! enum Command {
//!     Get(&'static str),
//!     Increment(&'static str),
//! }
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("busy for {0:?}")]
//! struct Busy(Duration);
//!
//! struct Commands;
//!
//! impl Policy<Command, u64, Busy> for Commands {
//!     fn copy(&self, command: &Command) -> Option<Command> {
//!         matches!(command, Command::Get(_)).then(|| command.clone())
//!     }
//!
//!     fn classify(&self, _: &Command, outcome: Result<&u64, &Busy>) -> Verdict {
//!         match outcome {
//!             Ok(_) => Verdict::Pass,
//!             Err(Busy(wait)) => Verdict::RetryAfter(*wait),
//!         }
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut calls = 0;
//! let store = service_fn(move |_: Command| {
//!     calls += 1;
//!     std::future::ready(if calls == 1 { Err(Busy(Duration::from_millis(1))) } else { Ok(7) })
//! });
//! let store = ServiceBuilder::new().layer(RetryLayer::generic(Commands)).service(store);
//! assert!(store.clone().oneshot(Command::Increment("visits")).await.is_err());
//! assert_eq!(store.oneshot(Command::Get("visits")).await.unwrap(), 7);
//! # });
//! ```
//!
//! # Differences from tower's retry
//!
//! - tower asks its policy to copy every request, though most are never sent again. Here a request is copied only before
//!   an attempt that may be followed by another, and nothing at all is kept for one that may not.
//! - tower's budget lets as many retries through as there are requests, whatever its ratio; this one is kept exactly.
//! - A wait belongs to a request and is drawn anew each time. The generator of tower's backoff is cloned with the service, so
//!   that all clones wait alike.
//!
//! # A timeout for each attempt
//!
//! Put `tower::timeout` inside, and let the policy decide what its error means. A deadline for all attempts is told by
//! [`Policy::deadline`], and is kept by whatever is outside.
//!
//! # Cancel safety
//!
//! As [above](super): dropping the future drops the attempt under way, makes no other, and gives a granted retry back.

mod future;
mod layer;
mod policy;

pub use future::ResponseFuture;
pub use layer::{Builder, GenericLayer, GenericRetry};
pub use policy::{Classify, OnError, Policy, Verdict};

#[cfg(test)]
mod tests;
