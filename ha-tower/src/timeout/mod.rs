//! Deadlines: the time a caller waits, kept here, told to the tiers behind, and honoured there.
//!
//! # The problem
//!
//! A caller that has given up leaves work behind. Its server goes on, asks the next tier, which asks the database, and all of
//! it for nobody; under load this is most of the work there is, because those who gave up try again. So every request
//! carries the moment at which nobody waits any more, each tier stops there, and no tier begins what it cannot end.
//!
//! # The caller's side
//!
//! [`TimeoutLayer`] answers `504` when the response head has not come in time, and writes the [`Deadline`] into the request's
//! extensions, so that what is inside can tell whether one more attempt or a wait still fits. The body is not cut: a
//! download, an event stream or a WebSocket takes as long as it takes.
//!
//! Differences from tower's timeout: the answer is a response (no `HandleErrorLayer` in axum), the deadline is visible
//! inside, and an outer, earlier deadline wins.
//!
//! # What travels
//!
//! An [`Upstream`](crate::upstream::Upstream) writes what is left into each attempt, at the moment at which the attempt is given
//! to a connection: [`TIMEOUT_MS`], or `grpc-timeout` where the content type is gRPC's. It is the rest of the deadline or of
//! the attempt's own time, whichever is shorter, rounded down. A retry or a hedge therefore tells less than the attempt before
//! it. [`PropagateLayer`] does the same around any other client. A request without a [`Deadline`] gets no header, and
//! [`propagate(false)`](TimeoutLayer::propagate) keeps it at home.
//!
//! Only durations travel, so that clocks need not agree; what a request spends on the wire is not counted, and a tier may work
//! on for as long as that took.
//!
//! # The server's side
//!
//! [`DeadlineLayer`] reads the header, bounds it by a maximum of its own, refuses what cannot be done in time, and drops the
//! work when the time is over. Put it outside everything that works or waits, inside what must see all requests (drain,
//! access log).
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! use axum::{Extension, Router, body::Body, routing::get};
//! use ha_tower::timeout::{Deadline, DeadlineLayer};
//! use http::{Request, StatusCode};
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! let layer = DeadlineLayer::builder().maximum(Duration::from_secs(10)).build()?;
//! let app = Router::new()
//!     .route("/", get(|Extension(deadline): Extension<Deadline>| async move {
//!         let left = deadline.remaining(tokio::time::Instant::now());
//!         assert_eq!(left, Duration::from_millis(250));
//!         tokio::time::sleep(left * 2).await;
//!     }))
//!     .layer(layer);
//! let request = |left: &str| Request::get("/").header("x-ha-timeout-ms", left).body(Body::empty());
//!
//! // Nothing is begun for a caller that has gone, and nothing goes on when it goes.
//! for left in ["0", "250"] {
//!     let response = app.clone().oneshot(request(left)?).await?;
//!     assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
//! }
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Not promised
//!
//! Work is stopped by dropping its future: what it has spawned, or given to a database, ends as that says. A caller that tells
//! nothing, or garbage, has the server's [`without_header`](ServerBuilder::without_header).
//!
//! # Metrics
//!
//! With the feature `metrics`, by `side` (`client` for [`TimeoutLayer`], `server` for [`DeadlineLayer`]):
//!
//! | counter | counts |
//! |---|---|
//! | `ha_deadline_expired_total` | answers that did not come in time |
//! | `ha_deadline_refused_total` | requests that were not begun because too little time was left |
//! | `ha_deadline_malformed_total` | requests whose header could not be read |
//! | `ha_deadline_clamped_total` | requests whose header told more than the maximum |

mod deadline;
mod future;
mod header;
mod layer;
mod metrics;
mod propagate;
mod reply;
mod server;

pub use deadline::Deadline;
pub use future::ResponseFuture;
pub use header::TIMEOUT_MS;
pub use layer::{Timeout, TimeoutLayer};
pub use propagate::{Propagate, PropagateLayer};
pub use server::{DeadlineLayer, ServerBuilder, ServerDeadline};

pub(crate) use header::{limit_attempt, tell};

#[cfg(test)]
mod tests;
