//! Choosing an endpoint for each request.
//!
//! [`Balance`] is a `tower::Service` over one inner service per endpoint. It is `Clone` and always ready: it needs no
//! `Buffer`, takes no lock for the pick and allocates nothing for it. The pick is made in `call`, because it depends
//! on the request; the readiness of the inner service is waited for inside the future.
//!
//! # How an endpoint is picked
//! 1. An endpoint with weight 0, or one that fails its active health check, gets nothing.
//! 2. One whose breaker is open gets nothing; one whose breaker is half-open gets its probe.
//! 3. The [`Policy`] decides among the rest.
//! 4. Endpoints that this request has tried (a [`Tried`](crate::tried::Tried) in its extensions) are passed over
//!    while another one is available.
//! 5. Panic: when fewer than half of those that pass their active check have a closed breaker, breakers are ignored,
//!    because it is more likely that the load is too high for the rest than that most of a fleet is broken. A failing active
//!    check is never ignored.
//! 6. When nothing is left, the answer is [`Error::Unavailable`] at once.
//!
//! An endpoint that loses every comparison of latency is still picked about once a second while it is idle, more rarely the
//! slower it is, so that it is noticed when it becomes good again.
//!
//! `priority` and `locality` of an endpoint are carried along and not looked at yet.
//!
//! # What a pick costs
//! A look at a candidate reads one cache line, and a pick looks at two. The clock is read when the policy looks at latency, when an
//! endpoint has failed lately, and otherwise once in sixteen calls: up to 15 successes of an endpoint have no time for its
//! breaker and count as recent.
//!
//! # What is learned from a response
//! A [`Protocol`] says where the tried endpoints are in a request, how a response counts, and until when the request is in flight.
//! [`Any`] knows only `Ok` and `Err`; [`Http`] reads status codes and holds the request in flight until the response body has ended;
//! [`Grpc`] reads the gRPC status from head or trailers. A future that is dropped before its response tells nothing to the breaker,
//! but counts as at least as slow as it was.
//!
//! ```
//! use ha_core::endpoint::Endpoint;
//! use ha_tower::balance::{Balance, P2c};
//! use tower::{ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let greet = |name| service_fn(move |()| async move { Ok::<_, std::io::Error>(name) });
//! let balance = Balance::builder([
//!     ("http://10.0.0.1:3000".parse::<Endpoint>()?, greet("one")),
//!     ("http://10.0.0.2:3000".parse::<Endpoint>()?, greet("two")),
//! ])
//! .policy(P2c::peak_ewma())
//! .build()?;
//!
//! let name = balance.clone().oneshot(()).await?;
//! assert!(name == "one" || name == "two");
//! # Ok::<(), tower::BoxError>(())
//! # }).unwrap();
//! # Ok::<(), tower::BoxError>(())
//! ```

mod builder;
mod changes;
mod error;
mod event;
mod fleet;
mod flight;
mod future;
mod grpc;
mod key;
mod members;
mod outlier;
mod pick;
mod policy;
mod protocol;
mod service;
mod state;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use error::Error;
pub use event::Event;
pub use flight::InFlight;
pub use future::ResponseFuture;
pub use grpc::{Grpc, GrpcBody};
pub use key::{HashKey, Head, Keyed};
pub use policy::{Maglev, P2c, Policy, Random, Rendezvous, RingHash, RoundRobin};
pub use protocol::{Any, Body, Http, Protocol, Verdict};
pub use service::Balance;

pub(crate) use builder::Settings;
pub(crate) use event::Listener;
pub(crate) use protocol::by_status;
pub(crate) use state::State;
