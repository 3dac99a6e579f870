//! Many endpoints, called as if they were one.
//!
//! [`Upstream`] is the assembly that most services want: discovery, active health checks, balancing, a breaker and
//! connections per endpoint, behind one `tower::Service` that is `Clone` and always ready.
//!
//! ```
//! use std::time::Duration;
//! use ha_tower::upstream::Upstream;
//! use ha_tower::{balance, breaker, discover, health, outlier};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let upstream = Upstream::builder("catalog")
//!     .discover(discover::fixed(["http://127.0.0.1:3000", "http://127.0.0.1:3001"])?)
//!     .balance(balance::P2c::peak_ewma())
//!     .health(health::Http::get("/readyz"))
//!     .outlier(outlier::Config::default())
//!     .breaker(breaker::Config::default())
//!     .connect_timeout(Duration::from_millis(250))
//!     .attempt_timeout(Duration::from_secs(1))
//!     .build()?;
//! assert_eq!(upstream.endpoints().len(), 2);
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # What one call does
//! It picks an endpoint by the rules of [`balance`](crate::balance), notes it in the request's
//! [`Tried`](crate::tried::Tried), and makes exactly one attempt there: whatever may have reached the application is never
//! sent again, so that a retry layer outside sees every attempt. The attempt ends with the response head or the attempt timeout;
//! the body streams on for as long as it takes, and the request counts as in flight until it ends.
//!
//! The request's path, query, headers and body pass unchanged; scheme and authority of its URI become the endpoint's, and a `Host`
//! header that is there already stays.
//!
//! # What counts against an endpoint
//! A 5xx, a connect error, a broken exchange and a timeout count in its breaker and add to its cost. A 429 counts in
//! the breaker's ratio only. A 503 with `Retry-After` adds to the cost alone. [`Error::Unsent`] and [`Error::Full`] count as nothing, and
//! may be sent again whatever the method. An answer of the type `application/grpc` is read as [`balance::Grpc`](crate::balance::Grpc)
//! says: by its gRPC status, mostly from the trailers, when the body has ended.
//!
//! # Connections
//! Each endpoint has connections of its own, which close when it is removed; requests in flight on them finish. Their number, the
//! queue for them, their age and idle time are bounded by [`Connections`]. The HTTP/1.1 connection that was used last is
//! used next, so that what a peak opened goes idle and closes. A request that meets a pooled connection which the endpoint
//! has closed meanwhile goes to another connection of the same endpoint, when the connection took none of it; that is no attempt of
//! its own and costs no retry. A host name with several addresses is tried as RFC 8305 has it: IPv6 and IPv4 by turns, the next
//! one a third of the connect timeout after the one before, or as soon as one has failed.
//!
//! With the feature `http2` and [`Builder::http2`] requests share HTTP/2 connections. A stream that the endpoint refused
//! (`REFUSED_STREAM`) or that came after the last one it promised to answer (`GOAWAY`) is [`Error::Unsent`].
//!
//! ```
//! # use std::time::Duration;
//! # use ha_tower::discover;
//! use ha_tower::upstream::{Connections, Upstream};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let upstream = Upstream::builder("catalog")
//!     .discover(discover::fixed(["http://127.0.0.1:3000"])?)
//!     .connections(Connections::default().max(64).max_pending(128))
//!     .build()?;
//! let catalog = &upstream.endpoints()[0];
//! assert_eq!((catalog.open_connections, catalog.idle_connections, catalog.pending), (0, 0, 0));
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Metrics
//! With the feature `metrics` attempts and connections are counted through the `metrics` facade, beside what the
//! [balancer](crate::balance), [discovery](crate::discover) and [health checks](crate::health) count. Every series has the label `upstream`,
//! and all but the last one `endpoint`: there are as many as there were endpoint keys. Install the recorder before an upstream is built.
//!
//! | metric | kind | what |
//! |---|---|---|
//! | `ha_upstream_attempts_total` | counter | attempts by `outcome`: `1xx` to `5xx`, `timeout`, `connect`, `full`, `unsent`, `broken`, `refused` (a request that cannot be sent) and `cancelled` (dropped before its head) |
//! | `ha_upstream_in_flight` | gauge | attempts whose response body has not ended |
//! | `ha_upstream_head_seconds` | histogram | time from the pick to the response head, of those that got one |
//! | `ha_upstream_connections` | gauge | open connections, busy or idle |
//! | `ha_upstream_connections_opened_total` | counter | connections opened so far |
//! | `ha_upstream_pending` | gauge | requests that wait for a connection |
//! | `ha_upstream_unavailable_total` | counter | requests for which there was no endpoint to pick |
//!
//! # Not promised
//! One attempt is one attempt: put a [`retry`](crate::retry) layer and a deadline around it. TLS to the endpoint is not spoken
//! yet. A request that was written to a connection which the endpoint closed at the same moment may have been read: that is
//! [`Error::Exchange`], which only an idempotent request survives.

mod attempt;
mod body;
mod builder;
mod connect;
mod error;
mod meter;
mod protocol;
mod service;
mod snapshot;
#[cfg(all(test, feature = "metrics"))]
mod tests;

pub use body::Body;
pub use builder::{BuildError, Builder};
#[cfg(feature = "http2")]
pub use connect::Http2;
pub use connect::{ConnectError, Connections};
pub use error::Error;
pub use service::{ResponseFuture, Upstream};
pub use snapshot::EndpointSnapshot;
