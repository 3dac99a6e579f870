//! Circuit breaker around one service: stop calling what does not answer, and find out cheaply when it does again.
//!
//! # The problem
//!
//! A service that has stopped answering takes its callers with it: each of their requests waits for a timeout, holds memory and a
//! connection meanwhile, and is one more that the service finds when it comes back. A breaker counts, stops calling, and lets single
//! probes find out when it is worth calling again.
//!
//! A [`Balance`](crate::balance::Balance) and an [`Upstream`](crate::upstream::Upstream) have one per endpoint built in, asked when an endpoint is
//! picked, so that an open one is passed over. [`BreakerLayer`] is for a service that stands alone: while the breaker is open, calls fail
//! at once with [`Error::Open`]. [`HttpBreakerLayer`] answers them itself, so that it fits into `Router::layer`.
//!
//! # The rules, in order
//!
//! 1. Forced open or closed, it stays so until [`Handle::reset`].
//! 2. Closed, every call goes through. It opens when, in the window (10 s, in ten exact buckets), at least half of at least 100 calls failed;
//!    after five failures in a row; or, only where [`Config::slow_calls`] is set, when too many calls took too long.
//! 3. Open, nothing goes through for 5 s; each trip in a row doubles that up to 60 s, with a band of chance so that many clients do not come back
//!    in step.
//! 4. Then one probe at a time goes through. Two that succeed close it, one that fails opens it again. A probe that has not come back
//!    after 30 s makes room for the next.
//!
//! What is a failure is said by a [`Classify`] and not by the breaker: [`Any`] takes every `Err`, [`Http`](crate::balance::Http)
//! also a 5xx, which is an `Ok` to every service, [`Grpc`](crate::balance::Grpc) a status, and a closure whatever you say. Both HTTP classifiers hold
//! to this:
//!
//! - 429 and `RESOURCE_EXHAUSTED` count in the ratio only. A 503 with `Retry-After` counts as nothing, and as a probe that found
//!   the service alive.
//! - What was refused in this process before it was sent (a [`LocalReply`](crate::problem::LocalReply) of 429 or 503, or an error such as
//!   [`Error::Open`] of a breaker further in, also as the source of another error in a [`BoxError`](tower::BoxError)) never counts. A local 502 or 504 does: it tells that what is
//!   behind did not answer.
//!
//! # Guarantees
//!
//! - All services made by one layer, and their clones, share one breaker, however often a router applies the layer.
//! - A call that is dropped gives its permit back at once. It counts as nothing, unless slow calls count and it was slow already.
//! - A probe only goes to a service that was ready for it. An open breaker answers without asking whether the service is ready.
//! - While all is well no lock is taken, nothing is allocated, and the clock is read once in 16 calls (twice per call where slow calls count).
//!
//! # What it does not do
//!
//! It does not wake a caller that waits for the service to become ready when it opens; only the next one is refused. It does not end calls:
//! put a timeout inside it, so that it sees what takes too long. It does not know the trailers of a gRPC answer.
//!
//! # Where it stands
//!
//! Inside retry (each attempt asks it), outside the attempt's timeout and the client (it sees what they say).
//!
//! # What can be seen
//!
//! [`Handle::snapshot`], [`Event`]s for a listener, log events with the field `breaker`, and with the feature `metrics`:
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `ha_breaker_state` | gauge: 0 closed, 1 half-open, 2 open | `breaker` |
//! | `ha_breaker_changes_total` | counter | `breaker`, `state` (`closed`, `half_open`, `open`), `cause` (`failure_ratio`, `consecutive_failures`, `slow_call_ratio`, `probe`, `wait_over`, `probes_passed`, `forced`, `reset`) |
//! | `ha_breaker_refused_total` | counter | `breaker` |
//! | `ha_breaker_failures_total` | counter | `breaker`, `outcome` (`failure`, `overloaded`) |
//!
//! ```
//! use ha_tower::balance::Any;
//! use ha_tower::breaker::{BreakerLayer, Config};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = BreakerLayer::new(Config::default(), Any)?;
//! let handle = layer.handle();
//! let service = ServiceBuilder::new()
//!     .layer(layer)
//!     .service(service_fn(|()| async { Ok::<_, std::io::Error>("answer") }));
//! assert_eq!(service.clone().oneshot(()).await?, "answer");
//!
//! handle.force_open();
//! assert!(service.oneshot(()).await.unwrap_err().is_open());
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! In axum, with a classifier of one's own:
//!
//! ```
//! use axum::{Router, body::Body, http::Request, response::Response, routing::get};
//! use ha_tower::balance::Verdict;
//! use ha_tower::breaker::BreakerLayer;
//! use std::convert::Infallible;
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = BreakerLayer::builder("reports")
//!     .classify(|result: Result<&Response, &Infallible>| match result {
//!         Ok(response) if response.status() == 507 => Verdict::failure(),
//!         _ => Verdict::success(),
//!     })
//!     .on_event(|event| println!("{event:?}"))
//!     .build()?
//!     .into_http();
//! let handle = layer.handle();
//! let app: Router = Router::new().route("/", get(|| async { "answer" })).layer(layer);
//!
//! handle.force_open();
//! let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 503);
//! assert_eq!(response.headers()["retry-after"], "1");
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! [`Any`]: crate::balance::Any

mod call;
mod classify;
mod error;
mod event;
mod gate;
mod handle;
mod http;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod service;

#[cfg(test)]
mod tests;

pub use classify::Classify;
pub use error::Error;
pub use event::Event;
pub use ha_core::breaker::{Config, Outcome, SlowCalls, Snapshot, State, Trip};
pub use handle::Handle;
pub use http::{HttpBreaker, HttpBreakerLayer, HttpResponseFuture, Open};
pub use layer::{BreakerLayer, Builder};
pub use service::{CircuitBreaker, ResponseFuture};

pub(crate) use call::{abandon, settle};
pub(crate) use classify::{refused_by, refused_here};
