//! Sends a request again when that is safe, elsewhere, and within a budget.
//!
//! # When a request is sent again
//!
//! In this order; the first rule that applies decides.
//!
//! 1. The answer was made in this process ([`LocalReply`](crate::problem::LocalReply), or an upstream error that says
//!    that nothing was available): passed on. There is nobody to ask again.
//! 2. A tier in front has marked the request as a retry of its own ([`MARKER`]): passed on. Otherwise three tiers with
//!    three attempts each would make 27.
//! 3. The attempts are used up (3), or the body is larger than what is kept for replay (64 KiB) and was already read.
//! 4. The request provably never reached the application (no connection; a pooled one that had died unused): again,
//!    whatever the method.
//! 5. The method is not idempotent (RFC 9110 §9.2.2: GET, HEAD, OPTIONS, TRACE, PUT and DELETE are): passed on. A POST
//!    or PATCH with an `Idempotency-Key` counts as idempotent only where
//!    [`idempotency_key(true)`](Builder::idempotency_key) says that the server keeps its side.
//! 6. The exchange failed, or the status is 429, 502, 503 or 504: again after a jittered wait. A `Retry-After` is
//!    honoured when it fits the cap (5 s) and the deadline; if not, the answer is passed on as it is.
//! 7. The budget has nothing left: passed on. See [`Budget`](ha_core::budget::Budget).
//!
//! # A response that breaks in the middle
//!
//! Once its head has been passed on, a response cannot be taken back. Small ones (32 KiB or less, by their length) are
//! therefore held until they are complete, and one that breaks or stalls for a second before that is retried like a
//! failed exchange. One that is slow but keeps coming is held for four seconds at most, and never beyond the
//! [`Deadline`](crate::timeout::Deadline). Larger ones and streams are passed on at once.
//!
//! # What it tells the others
//!
//! - Inside: [`Tried`](crate::tried::Tried) in the request's extensions, one per request, so that a balancer goes
//!   elsewhere; and [`MARKER`] on every attempt but the first.
//! - Outside: [`Attempts`] in the response's extensions, and in a header of your choice.
//!
//! # Cancel safety
//!
//! Dropping the future drops the attempt under way; no other is made and nothing runs on. A retry that was granted by the
//! budget and not sent yet goes back into it.

mod future;
mod layer;
mod policy;
mod service;

pub use future::ResponseFuture;
pub use layer::{Builder, RetryLayer};
pub use service::Retry;

use http::HeaderName;

/// Request header that marks an attempt as a retry; its value is the number of the attempt, from 2.
///
/// A [`RetryLayer`] that receives it does not retry.
pub const MARKER: HeaderName = HeaderName::from_static("x-retry-attempt");

/// Response extension: how many attempts were made, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts(pub u32);

#[cfg(test)]
mod tests;
