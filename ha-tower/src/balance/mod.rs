//! Choosing an endpoint for each request.
//!
//! [`Balance`] is a `tower::Service` over one inner service per endpoint. It is `Clone` and always ready: it needs no
//! `Buffer`, takes no lock for the pick and allocates nothing for it. The pick is made in `call`, because it depends
//! on the request; the readiness of the inner service is waited for inside the future.
//!
//! # How an endpoint is picked
//! 1. An endpoint with weight 0, or one that fails its active health check, gets nothing. One that says in any response that it
//!    drains ([`health::DRAINING`](crate::health::DRAINING)) gets nothing more at once, until its checks pass again, or for 30 s where
//!    there are none.
//! 2. One that is ejected ([`outlier`](crate::outlier)) or whose breaker is open gets nothing; one whose breaker is half-open gets its
//!    probe.
//! 3. Priorities, regions and zones say how much each group of endpoints takes, by the rules of [`spread`](ha_core::spread): the lowest
//!    priority and the caller's own region first, the next ones as far as those have lost capacity.
//! 4. The [`Policy`] decides inside the group.
//! 5. Endpoints that this request has tried (a [`Tried`](crate::tried::Tried) in its extensions) are passed over
//!    while another one is available.
//! 6. Slow start: one that is new or back is drawn in vain at first, and ever more rarely so
//!    ([`slow_start`](ha_core::slow_start); 30 s and 5 s, on by default). One that is back begins once all signals speak for it.
//! 7. Panic: when fewer than half (by weight) of those that pass their active check are neither ejected nor have an open breaker, and
//!    all priorities together have too little, breakers and ejections are ignored, because it is more likely that the load is
//!    too high for the rest than that most of a fleet is broken. A failing active check is never ignored.
//! 8. When nothing is left, the answer is [`Error::Unavailable`] at once, after a second look if something is changing just then.
//!
//! An endpoint that loses every comparison of latency is still picked about once a second while it is idle, more rarely the
//! slower it is, so that it is noticed when it becomes good again.
//!
//! # The same key to the same endpoint
//! [`RingHash`], [`Maglev`] and [`Rendezvous`] take a [`HashKey`]. An endpoint has at most 1.25 times its share of the requests in flight
//! ([`Bound`](ha_core::hash::Bound)); what is above, and what belongs to an endpoint that is out, goes to the next choice of the same
//! key. Where the endpoints that are left have no room within the bound, it is widened rather than a request refused. A request without the
//! key goes anywhere, by weight.
//!
//! # What a pick costs
//! A look at a candidate reads one cache line, and a pick looks at two. The clock is read when the policy looks at latency, when an
//! endpoint has failed lately, and otherwise once in sixteen calls: up to 15 successes of an endpoint have no time for its
//! breaker and count as recent.
//!
//! What has changed since is looked at by the next pick, once: that one walks over all endpoints. No pick takes a lock or allocates
//! otherwise, but for one that has found nobody: it waits for a look that is under way.
//!
//! # What is told
//! [`Event`]s go to the listeners of [`Builder::on_event`] and to `tracing`, each with the field `upstream`, empty for a bare balancer:
//!
//! | level | message | fields |
//! |---|---|---|
//! | warn | `endpoint ejected` | `endpoint`, `cause`, `times` |
//! | info | `endpoint no longer ejected` | `endpoint`, `cause` |
//! | info | `circuit breaker changed` | `endpoint`, `state` |
//! | warn | `panic rule changed` | `active` |
//! | warn | `no endpoint in the caller's region` | `region` |
//! | debug | `balancer updated` | `added`, `removed`, `total` |
//! | debug | `balancer heard of health` | `endpoint`, `from`, `to` |
//!
//! With the feature `metrics` they are counted through the `metrics` facade, with the label `upstream`; nothing is added to a pick:
//!
//! | metric | kind | other labels |
//! |---|---|---|
//! | `ha_balance_ejections_total` | counter | `endpoint`, `cause` |
//! | `ha_balance_ejections_ended_total` | counter | `endpoint`, `cause` |
//! | `ha_balance_breaker_changes_total` | counter | `endpoint`, `state` |
//! | `ha_balance_health_changes_total` | counter | `endpoint`, `state` |
//! | `ha_balance_endpoints` | gauge | |
//! | `ha_balance_panic` | gauge, 1 while it holds | |
//! | `ha_balance_panics_total` | counter | |
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
#[cfg(feature = "metrics")]
mod metrics;
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
pub(crate) use protocol::{by_status, of_http_request};
pub(crate) use state::State;
