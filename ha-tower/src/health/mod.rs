//! Active health checks: what cannot serve gets no traffic before a request finds out.
//!
//! | check | asks | feature |
//! |---|---|---|
//! | [`Http::get`] | for a path, and looks at the status, and at the body if wanted | |
//! | [`Tcp::connect`] | for a connection, and for some bytes if wanted | |
//! | [`Grpc::server`], [`Grpc::service`] | the standard gRPC health service, version 1 | `grpc` |
//! | [`custom`] | whatever your async function asks | |
//!
//! ```
//! use std::time::Duration;
//! use ha_tower::{discover, health, upstream::Upstream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let upstream = Upstream::builder("shop")
//!     .discover(discover::fixed(["http://127.0.0.1:3000", "http://127.0.0.1:3001"])?)
//!     .health(
//!         health::Http::get("/readyz")
//!             .interval(Duration::from_secs(2))
//!             .timeout(Duration::from_secs(1))
//!             .on_event(|event| println!("{}: {:?}, {:?}", event.endpoint, event.to, event.reason)),
//!     )
//!     .build()?;
//! # drop(upstream);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! 1. Every check opens a connection of its own, without TLS, and never one of the traffic's pool: a full pool is no sick endpoint, and
//!    a connection that happens to live is no sound one.
//! 2. `fall` failures in a row take an endpoint out and `rise` passes bring it back; while that is open, checks come faster. See [`Config`].
//!    An endpoint that fails gets no traffic, and no panic rule brings it back: it said itself that it cannot serve.
//! 3. A check ends after its timeout, whatever the endpoint does, and waits for no other: one that hangs delays none. All
//!    checks of an upstream belong to one task, which has at most [`at_once`](Check::at_once) under way. It ends with the last clone of the upstream.
//! 4. Up to `at_once` new endpoints are checked at once, more are spread over one interval.
//! 5. An endpoint that moves to another address keeps its state, and is checked at once.
//!
//! # What an app can say of itself
//!
//! | header of an answer | on | effect |
//! |---|---|---|
//! | `x-ha-draining: true` | checks, and every response to traffic ([`is_draining`]) | the endpoint is left at once, without `fall`; `rise` passes bring it back |
//! | `x-ha-region: sick` | checks | what the app's whole region shares is gone: the endpoint is [`State::RegionSick`] at once, and the whole region is skipped when most of it says so and another can serve |
//!
//! Both hold whatever the status is. An app says `x-ha-region: sick` when *nothing* in its region can do the work, such as
//! when the region's database is gone; an app that says it for a fault of its own is merely taken out like any that fails.
//!
//! # What `tracing` is told
//!
//! | level | message | fields |
//! |---|---|---|
//! | info | `health changed` | `upstream`, `endpoint`, `from`, `to`, `reason`, `available` |
//! | debug | `health check failed` | `upstream`, `endpoint`, `error` |
//! | error | `a listener of health events panicked` | `upstream` |
//!
//! With the feature `metrics` the counter `ha_health_checks_total` counts the checks that have ended, with the labels `upstream`, `endpoint` and
//! `result`: `passed`, `failed`, `draining` or `region_sick`.

mod check;
mod checker;
mod connection;
mod event;
mod failure;
#[cfg(feature = "grpc")]
mod grpc;
mod headers;
mod http;
mod probe;
mod reading;
mod tcp;
#[cfg(test)]
mod tests;

pub use check::Check;
pub(crate) use checker::Checks;
pub use event::{Event, Reason};
pub use failure::Failure;
#[cfg(feature = "grpc")]
pub use grpc::Grpc;
pub use headers::{DRAINING, REGION, is_draining, is_region_sick};
pub use http::Http;
pub use probe::{Any, Custom, Probe, custom};
pub use tcp::Tcp;

pub use ha_core::health::{Config, Finding, Start, State};
