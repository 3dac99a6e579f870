//! Overload: how much is let in at once, how often, and who goes first.
//!
//! # The problem
//!
//! A service that lets everything in is at its worst when it is needed most. At four times of what it can do, every request waits behind
//! all others, callers give up before their turn, and the work is done all the same, for nobody: throughput that is of use to someone falls
//! to nothing while every core is busy. A timeout does not help, because it ends the caller's wait and not the work. What helps is
//! to refuse most requests early and cheaply, so that the rest is served as on a quiet day; to refuse the right ones; and to say so in a way that
//! callers do not mistake for a failure.
//!
//! # Which one
//!
//! | you want | take | refuses with |
//! |---|---|---|
//! | that a service survives any load, without knowing its capacity | [`LimitLayer::adaptive`] | 503 |
//! | that one part does not take all of a known resource (a bulkhead) | [`LimitLayer::concurrency`] | 503 |
//! | that short bursts wait instead of being refused, and that important requests go first | [`Builder::queue`] on either | 503 |
//! | that one caller does not take everything, or what was agreed | `RateLimitLayer` (feature `rate-limit`) | 429 |
//! | that your client stops hammering a server that refuses | [`ThrottleLayer`] | 503 |
//! | that a service of tower's that is not ready refuses instead of letting wait | [`LoadShedLayer`] | 503 |
//!
//! Of the algorithms, [`Vegas`] (default) holds latency lowest; [`Gradient2`] bears latencies that differ widely, and lets them rise further; [`Aimd`] is for a client whose server says 429 or 503.
//!
//! # The rules
//!
//! 1. **A place is taken until the response body has ended**, failed or been dropped, or until the future is. It goes back in
//!    every case, a panic included.
//! 2. **The decision is made in `call`.** axum's routes are always ready; a limit that refused by readiness would refuse nothing.
//! 3. **The state belongs to the layer**: however often axum applies it and clones its services, it is one limit.
//! 4. **Waiting is bounded**: by number, by the [`Deadline`](crate::timeout::Deadline) of the request, and by controlled delay ([`Queue`]): while a
//!    queue stands, nobody waits for more than twice its target. A caller that goes away leaves the queue.
//! 5. **Priorities**: the [`Priority`] extension (which [`route`](crate::route) sets), else what was configured: a function or a trusted
//!    header. No header is trusted by default. A full queue lets a sheddable request go for a critical one.
//! 6. **An adaptive limit** stays within its bounds, does not rise while it is not used, and measures the undisturbed latency anew every
//!    half a minute. What was refused in this process teaches it nothing. Latency is measured up to the response head.
//! 7. **Refusals are cheap**: answers are made once, when the layer is built, and copied. With the feature `metrics` each is counted, and
//!    its labels are two small allocations.
//!
//! # Refusals are not failures of the upstream
//!
//! In the HTTP form they are answers with `Retry-After`, a problem document and the [`LocalReply`](crate::problem::LocalReply) extension, in the
//! generic form [`Error::Shed`] ([`is_shed`] finds it below other errors). So a retry outside does not ask again.
//!
//! # What is not promised
//!
//! - Work that goes on after its future was dropped (a blocking thread, a query) is not counted any more. Bound it with a limit around the
//!   work itself, or keep the future alive.
//! - An upgraded connection (WebSocket) is counted until its response body has ended, which is at once.
//! - A limit is per process.
//!
//! # Order
//!
//! Rate limit outside, then this limit, then everything that is worth protecting; a deadline outside of both. A throttle sits inside
//! of retries, around the client.
//!
//! # Examples
//!
//! In axum, without `HandleErrorLayer`:
//!
//! ```
//! use axum::{Router, routing::get};
//! use ha_tower::limit::{AdaptiveConfig, LimitLayer, QueueConfig};
//! use http::{Request, StatusCode};
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = LimitLayer::adaptive(AdaptiveConfig::default())
//!     .queue(QueueConfig::default())
//!     .http()
//!     .build()?;
//! let handle = layer.handle();
//! let app: Router = Router::new().route("/", get(|| async { "done" })).layer(layer);
//!
//! let response = app.oneshot(Request::get("/").body(axum::body::Body::empty())?).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! assert_eq!(handle.snapshot().limit, 20);
//! // The body has not been read: the place is taken.
//! assert_eq!(handle.snapshot().in_flight, 1);
//! drop(response);
//! assert_eq!(handle.snapshot().in_flight, 0);
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! Any service:
//!
//! ```
//! use ha_tower::limit::{LimitLayer, Priority, Reason};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = LimitLayer::concurrency(1)
//!     .priority_by(|job: &&str| job.starts_with("pay").then_some(Priority::Critical))
//!     .build()?;
//! let service = ServiceBuilder::new().layer(layer).service(service_fn(|job: &'static str| async move {
//!     tokio::time::sleep(std::time::Duration::from_millis(10)).await;
//!     Ok::<_, std::io::Error>(job)
//! }));
//! let (first, second) = tokio::join!(service.clone().oneshot("pay 1"), service.oneshot("mail"));
//! assert_eq!(first?, "pay 1");
//! let error = second.unwrap_err();
//! assert!(error.is_shed());
//! assert_eq!(error.reason(), Some(Reason::Full));
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Metrics and events
//!
//! With the feature `metrics`; all are labelled `limit`, the name of the layer.
//!
//! | name | kind | further labels |
//! |---|---|---|
//! | `ha_limit_shed_total` | counter | `reason`, `priority` |
//! | `ha_limit_limit` | gauge, of adaptive limits when they change | |
//! | `ha_limit_in_flight` | gauge, in the same moment | |
//!
//! `tracing`: a warning with the first refusal after ten seconds without one, and at level debug every change of a limit.
//!
//! # Cancel safety
//!
//! Dropping a future gives its place back or leaves the queue. A request that still waited was not sent.

mod answer;
mod body;
mod error;
mod future;
mod gate;
mod guard;
mod held;
mod key;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod protocol;
#[cfg(feature = "rate-limit")]
mod rate;
mod service;
mod shed;
#[cfg(feature = "rate-limit")]
mod table;
mod throttle;

pub use body::Body;
pub use error::{Error, Reason, Shed, is_shed};
pub use future::ResponseFuture;
pub use guard::GuardFuture;
pub use ha_core::limit::{
    AdaptiveConfig, Aimd, Algorithm, Gradient2, Order, Priority, Queue, QueueConfig, Throttle,
    ThrottleConfig, ThrottleSnapshot, UnknownPriority, Vegas,
};
pub use held::Held;
pub use key::LimitKey;
pub use layer::{Builder, Handle, LimitLayer, Snapshot};
pub use protocol::{Any, Http, Inner, Outcome, OutcomeBy, PriorityBy, Protocol, With};
#[cfg(feature = "rate-limit")]
pub use rate::{HttpKey, KeyBy, KeyOf, RateBuilder, RateLimit, RateLimitLayer, Unkeyed};
pub use service::Limit;
pub use shed::{LoadShed, LoadShedLayer};
pub use throttle::{ThrottleLayer, Throttled};

#[cfg(test)]
mod tests;
