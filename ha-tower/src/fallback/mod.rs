//! Answers from somewhere else when a service cannot: a cached page, a default, another region.
//!
//! # The problem
//!
//! Retries and breakers decide how long to ask the same service. When the answer stays "no", somebody has to say something useful, and the
//! caller has to know that it is not the real thing. Written by hand in each handler that is a copy of the request that is made for
//! every call and needed for one in a thousand, and a failure of the fallback that hides the failure behind it.
//!
//! # The rules, in order
//!
//! 1. What is a failure is said by a [`When`]. The default, [`Failures`], takes errors, what was refused in this process (an open breaker, a shed
//!    request), timeouts, 502, 503 and 504, and no other status: a 404 is an answer, and a 500 comes from a bug that more of the same code will
//!    not cure. [`Failures::server_errors`] takes every 5xx, a closure whatever you say.
//! 2. Then the fallback is asked, once. There are three kinds, which differ in what is kept of the request while the service works on it:
//!
//! | made by | asked with | keeps |
//! |---|---|---|
//! | [`FallbackLayer::answer`] | why | nothing |
//! | [`FallbackLayer::from_head`] | method, URI, headers and extensions, and why | a copy of the head |
//! | [`FallbackLayer::service`] | the request | a copy of the head, and the body as it streams, up to 64 KiB |
//!
//! 3. A service gets requests whose method is idempotent, and others only where the first service was provably not asked (an open breaker, a shed
//!    request): it might have done half of the work. [`Builder::any_method`] changes that. A body that outgrew what is kept goes nowhere.
//! 4. What it answers carries [`FallbackUsed`] in its extensions, with the [`Reason`]; it is passed on whatever its status.
//! 5. When it fails, or must not be asked, the caller gets what it would have got without a fallback: the first response (with [`FallbackFailed`]) or
//!    the first error, as they were. What the fallback said is logged.
//!
//! # What it does not do
//!
//! It does not limit how long the fallback takes: put a timeout around this layer, or around the fallback. It does not look at the body of a
//! response: one that breaks off later has been passed on already. It holds the failed response while the fallback works, and with it whatever that holds: a
//! connection, a place below a limit. An error of the service's readiness is passed on.
//!
//! # Where it stands
//!
//! Outside of retry, breaker and deadline, whose answers it replaces; inside of whatever must see every request.
//!
//! # What can be seen
//!
//! A log event when a fallback fails, and with the feature `metrics` the counter `ha_fallback_total` with the labels `fallback` (the name), `reason`
//! (`open`, `refused`, `timeout`, `error`, `status`, or what a closure said) and `result` (`used`, `failed`, `unsuitable`).
//!
//! ```
//! use axum::{Router, body::Body, http::Request, response::Response, routing::get};
//! use ha_tower::breaker::{self, BreakerLayer};
//! use ha_tower::fallback::{FallbackLayer, FallbackUsed, Reason};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let breaker = BreakerLayer::http(breaker::Config::default())?;
//! let handle = breaker.handle();
//! let fallback = FallbackLayer::from_head(|head, _| async move {
//!     Ok::<_, Infallible>(Response::new(Body::from(format!("an older {}", head.uri.path()))))
//! })
//! .build()?;
//! let app = Router::new()
//!     .route("/prices", get(|| async { "today's prices" }))
//!     .layer(ServiceBuilder::new().layer(fallback).layer(breaker));
//!
//! handle.force_open();
//! let response = app.oneshot(Request::get("/prices").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 200);
//! let used = response.extensions().get::<FallbackUsed>();
//! assert_eq!(used, Some(&FallbackUsed { reason: Reason::Open }));
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```

mod backup;
mod future;
mod layer;
mod service;
mod when;

#[cfg(test)]
mod tests;

pub use backup::{Answer, Backup, Elsewhere, FromHead, Kept};
pub use future::ResponseFuture;
pub use layer::{Builder, FallbackLayer};
pub use service::Fallback;
pub use when::{Failures, Reason, When};

/// Response extension: a fallback made this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackUsed {
    /// Why the service's own answer was not taken.
    pub reason: Reason,
}

/// Response extension: this is the service's own answer, although it is a failure, because the fallback failed as well or could not be
/// asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackFailed {
    /// Why a fallback was wanted.
    pub reason: Reason,
}
