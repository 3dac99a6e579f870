//! Sends a request again when that is safe, elsewhere, and within a budget.
//!
//! [`RetryLayer::http`] is for HTTP, [`RetryLayer::grpc`] for gRPC, and [`RetryLayer::generic`] for any other tower service. All
//! three keep the same terms: attempts, waits, one exact [budget](ha_core::budget::Budget).
//!
//! ```
//! use ha_tower::retry::{Attempts, RetryLayer};
//! use http::{Request, Response, StatusCode};
//! use http_body_util::{Empty, Full};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut calls = 0;
//! let stumbling = service_fn(move |_: Request<_>| {
//!     calls += 1;
//!     let mut response = Response::new(Full::from("hello"));
//!     if calls == 1 {
//!         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
//!     }
//!     std::future::ready(Ok::<_, std::convert::Infallible>(response))
//! });
//! let client = ServiceBuilder::new().layer(RetryLayer::http()).service(stumbling);
//! let response = client.oneshot(Request::new(Empty::<bytes::Bytes>::new())).await.unwrap();
//! assert_eq!(response.status(), StatusCode::OK);
//! assert_eq!(Attempts::of(&response), Attempts(2));
//! # });
//! ```
//!
//! # When a request is sent again
//!
//! In this order; the first rule that applies decides.
//!
//! 1. The answer was made in this process ([`LocalReply`](crate::problem::LocalReply), an upstream error that says that nothing
//!    was available, or an open [breaker](crate::breaker)): passed on. There is nobody to ask again.
//! 2. The connection itself is the request (`CONNECT`, `Upgrade`), the head has more than 256 fields, or an [`Override`] says
//!    [`off`](Override::off): sent once.
//! 3. The attempts are used up (3), or the body is larger than what is kept for replay (64 KiB) and was already read.
//! 4. The request provably never reached the application (no connection, a pooled one that had died unused, an HTTP/2 stream
//!    that was refused): again, whatever the method.
//! 5. A tier in front takes care of the request ([`MARKER`]): passed on. Otherwise three tiers with three attempts each
//!    would make 27, and three budgets of a fifth 1.73 times the load.
//! 6. The request is not idempotent: passed on. In HTTP the method decides (RFC 9110 §9.2.2: GET, HEAD, OPTIONS, TRACE, PUT and
//!    DELETE are), in gRPC nothing is unless [`idempotent`](Builder::idempotent) says so, which it can in HTTP too. A request
//!    with an `Idempotency-Key` counts only where [`idempotency_key(true)`](Builder::idempotency_key) says that the server
//!    keeps its side. An [`Override`] in the request's extensions has the last word.
//! 7. The exchange failed or took longer than an [attempt](Builder::attempt_timeout) may, or the status asks for it (below): again
//!    after a jittered wait. A server's own wish is honoured when it fits the cap (5 s) and the deadline; if not, the answer
//!    is passed on as it is.
//! 8. The budget has nothing left: passed on. See [`Budget`](ha_core::budget::Budget).
//!
//! # Which answers ask for it
//!
//! - HTTP: 429, 502, 503 and 504. `Retry-After` is the least wait, in seconds or as a date; a date that has passed is none, and one
//!   that cannot be read is as if it were not there.
//! - gRPC: `UNAVAILABLE`, and [others](Builder::codes) of your choice. `RESOURCE_EXHAUSTED` only where `grpc-retry-pushback-ms` says
//!   when. A push-back is the least wait; a negative one, or one that cannot be read, ends the retries. The status is taken from the
//!   head, or from the trailers of an answer that was held. An HTTP status other than 200 without a gRPC status, as of a proxy
//!   in between, is read as in HTTP.
//!
//! # A response that breaks in the middle
//!
//! Once its head has been passed on, a response cannot be taken back. Small ones (32 KiB or less, by their length) are
//! therefore held until they are complete, and one that breaks or stalls for a second before that is retried like a
//! failed exchange. One that is slow but keeps coming is held for four seconds at most, and never beyond the
//! [`Deadline`](crate::timeout::Deadline). Larger ones and streams are passed on at once, and so is whatever the last attempt brings.
//!
//! Answers in gRPC do not tell their length. Those to calls that may be made again are held for a second at most, up to the same
//! size, and then passed on: declare unary methods, or [hold nothing](Builder::hold_small_responses), where the first
//! message of a stream cannot wait so long.
//!
//! # What it tells the others
//!
//! - Inside: [`Tried`](crate::tried::Tried) in the request's extensions, one per request, so that a balancer goes
//!   elsewhere; [`MARKER`] with the number of the attempt on every attempt that this layer would repeat after any failure, the
//!   first included; in gRPC `grpc-previous-rpc-attempts` on those after it.
//! - Outside: [`Attempts`] of the response, and a header of your choice.
//!
//! # Order
//!
//! A deadline outside, so that all attempts share it; a balancer inside, so that each attempt is a new pick; and the timeout of
//! an attempt innermost, where breaker and load see it. [`Upstream`](crate::upstream::Upstream) has one there.
//! [`attempt_timeout`](Builder::attempt_timeout) is for clients that have none. Under a hedge, share the
//! [budget](Builder::shared_budget) and let the outer layer [count](Builder::counts_requests).
//!
//! # Metrics
//!
//! With the feature `metrics`. The label `retry` is the [name](Builder::name) of the layer, so that there are as many series as
//! layers, times the values here.
//!
//! | counter | labels |
//! |---|---|
//! | `ha_retry_retries_total` | `cause`: `unsent`, `error`, `status`, `broken` (while held), `timeout` |
//! | `ha_retry_given_up_total`: failures passed on that were fit for another attempt | `reason`: `attempts` (not for a generic policy), `body`, `pushback`, `deadline`, `budget` |
//! | `ha_retry_bad_headers_total`: what was sent to us and made no sense | `header`: `retry-after`, `grpc-retry-pushback-ms`, `grpc-status`, `too_many` |
//!
//! # What it costs
//!
//! While all is well: one reading of the clock, one atomic update, no lock that is shared between requests. A request that may
//! be sent again has its head copied, with a place for the endpoints tried; one that may not costs no allocation. An answer that is
//! held costs the list of its pieces.
//!
//! # Cancel safety
//!
//! Dropping the future drops the attempt under way; no other is made and nothing runs on. A retry that was granted by the
//! budget and not sent yet goes back into it.

mod boxed;
mod builder;
mod future;
pub mod generic;
mod grpc;
mod hold;
mod layer;
mod overriding;
mod policy;
mod report;
mod service;
mod status;
mod terms;

pub use boxed::{Boxed, Telling};
pub use builder::Builder;
pub use future::ResponseFuture;
pub use layer::RetryLayer;
pub use overriding::Override;
pub use service::Retry;

use http::{HeaderName, Response};

/// Request header by which a tier says that it sends this request again itself; its value is the number of the attempt,
/// from 1.
///
/// A [`RetryLayer`] that receives it repeats only what never reached the application. A proxy passes it on with the other fields;
/// a service that calls others on behalf of a request copies it to those calls, or its own retries multiply again. A client
/// that sends it without being a tier takes nothing but its own retries away.
pub const MARKER: HeaderName = HeaderName::from_static("x-retry-attempt");

/// How many attempts were made for a response, at least 1.
///
/// It is in the extensions of a response that took more than one; [`Attempts::of`] knows that of the others too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts(pub u32);

impl Attempts {
    /// Of this response: 1 unless the response says more.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Self {
        response.extensions().get().copied().unwrap_or(Self(1))
    }
}

#[cfg(test)]
mod tests;
