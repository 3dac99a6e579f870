//! Sends a request a second time when the answer is late, and takes the first good one.
//!
//! # The problem
//!
//! Retries help against failures. Against a server that is merely slow they come too late: the caller waits out the attempt's
//! timeout first, which has to be longer than any good answer takes. A hedge does not wait: when an answer takes longer than
//! 95 % of them do, the same request goes to another endpoint, and whoever answers first wins. The price is one request in
//! twenty; what it buys is that a caller only meets a slow server when it meets two of them at once. See [`ha_core::hedge`] for
//! how the time is measured.
//!
//! # When a request is hedged
//!
//! In this order; the first rule that applies decides.
//!
//! 1. A [`route::Policy`](crate::route::Policy) says [`Hedge::Off`](crate::route::Hedge::Off): no.
//! 2. It is a CONNECT, wants to switch protocols, or is a repetition by a tier in front, which has marked it
//!    ([`MARKER`](crate::retry::MARKER) of 2 or more, `grpc-previous-rpc-attempts`): no. A retry by a
//!    [`RetryLayer`](crate::retry::RetryLayer) around this layer may be hedged, when a balancer inside has noted the attempt before.
//! 3. It is not idempotent (as in [`retry`](crate::retry); a policy's or the layer's own
//!    [`idempotent`](Builder::idempotent) can say so): no.
//! 4. The delay is not known yet, because too few calls were measured: no.
//! 5. The delay ends at the [`Deadline`](crate::timeout::Deadline) or later: no.
//! 6. When the delay is over the body of the request is still on its way, or larger than what is kept (64 KiB): no. A slow
//!    upload is no slow server.
//! 7. The budget has nothing left: no.
//!
//! # Who wins
//!
//! The first **success**. A failure (an error, 5xx, 429, a failing `grpc-status` in the head) is kept while another attempt is under way,
//! and passed on only when all have failed; then an answer goes before an error, and an earlier one before a later one. A request that fails before it was
//! hedged is passed on at once: what comes next is the business of the retry layer. tower's hedge takes whatever comes first, so that a
//! fast failure beats a good answer.
//! What is kept goes on counting as in flight at its endpoint until its body is dropped, with the race at the latest.
//!
//! The losers are dropped before the winner is passed on.
//!
//! # Where it goes
//!
//! Inside of retry and deadline, outside of the balancer: each attempt is a pick of its own, and
//! [`Tried`](crate::tried::Tried), which the balancer writes before an attempt and reads for the next, sends it to another endpoint. The copies carry
//! [`MARKER`](crate::retry::MARKER), so that tiers behind neither hedge them again nor retry what
//! failed: what three tiers add adds up (1.6 times what entered, at a fifth each) and does not multiply (1.73).
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use ha_core::budget::Budget;
//! use ha_tower::hedge::{HedgeLayer, Hedged};
//! use ha_tower::{retry::RetryLayer, timeout::TimeoutLayer};
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! // One budget for everything that is sent more than once.
//! let budget = Arc::new(Budget::standard(std::time::Instant::now()));
//! // Stands for a balancer: who is asked first is slow.
//! let upstream = service_fn(|request: Request<_>| async move {
//!     if request.headers()["x-retry-attempt"] == "1" {
//!         tokio::time::sleep(Duration::from_secs(1)).await;
//!     }
//!     drop(request);
//!     Ok::<_, std::io::Error>(Response::new(Full::new(bytes::Bytes::from("answer"))))
//! });
//! let client = ServiceBuilder::new()
//!     .layer(TimeoutLayer::deadline(Duration::from_secs(2)))
//!     .layer(RetryLayer::builder().shared_budget(budget.clone()).build()?)
//!     .layer(HedgeLayer::builder().after(Duration::from_millis(20)).shared_budget(budget).build()?)
//!     .service(upstream);
//!
//! let started = tokio::time::Instant::now();
//! let response = client.oneshot(Request::get("/").body(Full::new(bytes::Bytes::new()))?).await?;
//! assert_eq!(started.elapsed(), Duration::from_millis(20));
//! assert_eq!(response.extensions().get::<Hedged>(), Some(&Hedged { sent: 1, winner: 1 }));
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Other requests than HTTP
//!
//! [`Generic`] hedges any `Clone` request that your matcher calls safe to repeat:
//!
//! ```
//! use ha_tower::hedge::{Generic, HedgeLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let reads = Generic::when(|query: &String| query.starts_with("select"));
//! let layer = HedgeLayer::of(reads).build()?;
//! let rows = layer.layer(service_fn(|_: String| async { Ok::<_, std::io::Error>(7) }));
//! assert_eq!(rows.oneshot("select 1".to_owned()).await?, 7);
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Not promised
//!
//! - Another endpoint, when only one is available: then the balancer has nobody else to pick. The budget bounds what
//!   that costs.
//! - That a loser did nothing: it was sent, and the application may have acted. That is why only what is safe to repeat is
//!   hedged.
//! - A share of the requests: the percentile says how many are late. The budget says how many of them are hedged.
//!
//! # Cancel safety
//!
//! Dropping the future drops all attempts under way; none is made later. A hedge that the budget granted and that was
//! not sent goes back into it.
//!
//! # Metrics
//!
//! With the feature `metrics`, by the layer's [`name`](Builder::name) as `hedge`:
//!
//! | counter | counts |
//! |---|---|
//! | `ha_hedge_sent_total` | hedges that were sent |
//! | `ha_hedge_won_total` | those whose answer was passed on |
//! | `ha_hedge_refused_total` | those that the budget refused |

mod future;
mod generic;

mod layer;
mod metrics;
mod over_http;
mod policy;
mod service;

pub use future::ResponseFuture;
pub use generic::{Cloned, Generic, Judge, OkIsSuccess};
pub use ha_core::hedge::{Delay, Percentile};
pub use layer::{Builder, HedgeLayer};
pub use over_http::{Hedged, Http, Template};
pub use policy::{Classify, Copies, Policy, Split};
pub use service::Hedge;

#[cfg(test)]
mod tests;
