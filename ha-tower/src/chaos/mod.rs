//! Fault injection: latency, errors, bad statuses and cut connections, on purpose, to see whether what stands in front can live with them.
//!
//! # The problem
//!
//! Whether timeouts, retries, breakers and fallbacks are set up well shows when something fails, and what is behind them fails at times of its
//! own. This layer fails when it is told to, in a way that can be repeated: in a test, or in a game day on a running system.
//!
//! # The rules, in order
//!
//! 1. It is not there unless the feature `chaos` is on. Built, it does nothing until [`Handle::start`], or
//!    [`Builder::started`].
//! 2. **No request can turn it on or steer it.** It reads no header, no query and no body. A [matcher](Builder::only) sees method and path, so
//!    that faults can be confined to routes.
//! 3. Each request that matches gets a number, and number and seed decide: the same seed deals the same faults in the same order. A larger
//!    ratio deals the same faults and some more.
//! 4. The delay comes first, then the fault. With a fault the service is not called:
//!
//! | fault | what the caller sees |
//! |---|---|
//! | [`Fault::Error`] | the error that [`Builder::error_with`] makes |
//! | [`Fault::Status`] | a response with this status and no body |
//! | [`Fault::Cut`] | a response whose body fails at once; a server closes the connection over it (HTTP/1.1) or resets the stream (HTTP/2) |
//!
//! 5. Responses that were delayed or made here carry [`Injected`] in their extensions. They carry no
//!    [`LocalReply`](crate::problem::LocalReply): they are to be taken for the service's own.
//!
//! # Where it stands
//!
//! Innermost, where the fault would come from: inside of timeout, breaker and retry, right before the client or the handler.
//!
//! # What can be seen
//!
//! [`Handle::counts`], a log event when it is started, stopped or changed, and with the feature `metrics` the counter `ha_chaos_injected_total` with
//! the labels `chaos` (the name) and `fault` (`delay`, `error`, `status`, `cut`).
//!
//! ```
//! use axum::{Router, body::Body, http::{Request, StatusCode}, routing::get};
//! use ha_tower::chaos::{ChaosLayer, Faults, Injected};
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let chaos = ChaosLayer::builder(42)
//!     .faults(Faults::none().status(0.25, StatusCode::SERVICE_UNAVAILABLE))
//!     .only(|target| target.path.starts_with("/prices"))
//!     .build()?;
//! let handle = chaos.handle();
//! let app: Router = Router::new().route("/prices", get(|| async { "prices" })).layer(chaos);
//! let ask = || app.clone().oneshot(Request::get("/prices").body(Body::empty()).unwrap());
//! assert_eq!(ask().await?.status(), 200);
//!
//! handle.start();
//! let mut failed = 0;
//! for _ in 0..1000 {
//!     failed += usize::from(ask().await?.extensions().get::<Injected>().is_some());
//! }
//! assert!((200..300).contains(&failed));
//! assert_eq!(handle.counts().statuses, failed as u64);
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```

mod body;
mod faults;
mod future;
mod handle;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use body::{Body, Cut};
pub use faults::{Fault, Faults, Injected};
pub use future::ResponseFuture;
pub use handle::{Counts, Handle};
pub use layer::{Builder, ChaosLayer, ErrorFrom, MakeError, NoErrors, Target};
pub use service::Chaos;
