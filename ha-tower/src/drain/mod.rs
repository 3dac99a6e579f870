//! Leaving service without dropping a request.
//!
//! [`Drain`] is the switch: clone it into whatever has to know. After [`start`](Drain::start) it goes through the phases
//! of [`ha_core::drain`]: not ready (`/readyz` says 503, everything is still served), refusing (no new connections; what
//! is under way finishes), and a deadline at which the rest is cut and reported.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use ha_tower::drain::{self, Drain};
//!
//! # async fn main_() -> std::io::Result<()> {
//! let drain = Drain::new();
//! let ready = drain.clone();
//! let app = Router::new()
//!     .route("/readyz", get(move || async move { ready.readyz() }))
//!     .route("/", get(|| async { "hello" }));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! let server = drain::serve(listener, app, drain.clone());
//! // elsewhere, on SIGTERM: drain.start();
//! let report = server.await;
//! assert_eq!(report.requests_cut, 0);
//! # Ok(()) }
//! ```
//!
//! From the start every response also says [`x-ha-draining: true`](crate::health::DRAINING): balancers of this crate leave at
//! once and do not wait for the next check.
//!
//! With `axum::serve`, which has no deadline of its own, [`Drain::enforce`] adds it:
//!
//! ```no_run
//! # use axum::Router; use ha_tower::drain::Drain;
//! # async fn main_(listener: tokio::net::TcpListener, app: Router) -> std::io::Result<()> {
//! let drain = Drain::new();
//! let app = app.layer(drain.layer());
//! let server = axum::serve(listener, app).with_graceful_shutdown(drain.signalled());
//! let report = drain.enforce(server).await?;
//! # Ok(()) }
//! ```
//!
//! # What [`serve`] adds to `axum::serve`
//!
//! - A request head must arrive within 10 s, so that clients which send a byte now and then (slowloris) do not hold
//!   connections for ever.
//! - The deadline, and the report of what it cut.
//! - The [`Peer`](crate::proxy::Peer) of each request.
//! - At the moment of refusing, connections that wait in the listener's queue are still accepted and answered once;
//!   closing the listener over them would reset them.

mod body;
mod handle;
mod layer;
mod serve;

pub use body::CountedBody;
pub use handle::{Builder, Drain, Report};
pub use layer::{Counted, DrainLayer, ResponseFuture};
pub(crate) use serve::HEADER_READ_TIMEOUT;
pub use serve::{HttpService, Server, ServerBuilder, serve};

pub use ha_core::config::ConfigError;
pub use ha_core::drain::Phase;

#[cfg(test)]
mod tests;
