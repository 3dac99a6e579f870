//! Layers and services for calling many endpoints as if they were one that never fails, and for being such an endpoint.
//!
//! # The problem
//!
//! A service that runs three times is only as available as whatever chooses between the three. Servers crash, freeze,
//! restart, answer slowly or say "not now", mostly in the middle of a request. Somebody has to notice, go elsewhere and
//! send again what can be sent again, without sending twice what must not be and without turning a stumble into a storm.
//! Usually that is a sidecar. Here it is a `tower` stack in your own process.
//!
//! # What is promised
//!
//! 1. **A request that can safely be sent again is sent again, elsewhere; any other is never sent twice.** What is safe
//!    is decided by the method, by proof that nothing was sent, or by a key that the server honours ([`retry`]).
//! 2. **Retries stay within their budget**, exactly and whatever fails ([`Budget`](ha_core::budget::Budget)).
//! 3. **What is broken gets no traffic**: active checks ([`health`]), a breaker per endpoint ([`breaker`]), ejection of what fails more than
//!    the others ([`outlier`]), and a balancer that sees latency and failures ([`balance`]).
//! 4. **Every wait has an end**: a deadline over all attempts, told to the tiers behind and kept there ([`timeout`]), one per
//!    attempt, one per connection.
//! 5. **Bodies stream**, both ways; memory per request is bounded by what is kept for replay (64 KiB) and what is held (32 KiB).
//! 6. **Leaving loses nothing that can finish in time**, and says what it cut ([`drain`]).
//!
//! # What is not
//!
//! - A response whose head was passed on is not retried when it breaks later; only small ones are held back until complete.
//! - A POST is sent again only if it provably never left, or with an `Idempotency-Key` on a route that opted in. The key
//!   promises nothing unless the server keeps its side.
//! - "Never left" is said by the HTTP client. A server that acted and then reset the connection looks like a failed
//!   exchange, and for a POST that is an error for the caller to resolve.
//! - Towards clients there is no HTTP/2, no TLS and no upgrade (WebSocket); put what ends TLS in front.
//!
//! # An edge in twenty lines
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::Router;
//! use ha_tower::{balance, breaker, discover, drain, health};
//! use ha_tower::{proxy::ReverseProxy, retry::RetryLayer, timeout::TimeoutLayer, upstream::Upstream};
//! use tower::ServiceBuilder;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let upstream = Upstream::builder("shop")
//!         .discover(discover::fixed(["http://10.0.0.1:3000", "http://10.0.0.2:3000"])?)
//!         .balance(balance::P2c::peak_ewma())
//!         .health(health::Http::get("/readyz"))
//!         .breaker(breaker::Config::default())
//!         .build()?;
//!     let client = ServiceBuilder::new()
//!         .layer(TimeoutLayer::deadline(Duration::from_secs(2)))
//!         .layer(RetryLayer::http())
//!         .service(upstream);
//!     let app: Router = Router::new().fallback_service(ReverseProxy::new(client));
//!     let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
//!     let report = drain::serve(listener, app, drain::Drain::new()).await;
//!     println!("{} requests cut", report.requests_cut);
//!     Ok(())
//! }
//! ```
//!
//! # The order of layers
//!
//! From the outside in: drain, [`ReverseProxy`](proxy::ReverseProxy), [`fallback`], deadline, [`limit`], retry, [`hedge`], throttle, balance; and for
//! each endpoint breaker, load, attempt timeout, client. The deadline is outside the retry so that all attempts share it; the attempt timeout is
//! inside the breaker so that the breaker sees it; retry is outside the balancer so that each attempt is a new pick.
//! Answers made here carry [`LocalReply`](problem::LocalReply), and no layer mistakes them for the upstream's.
//! `docs/layer-order.md` in the repository says why for each layer, with a test for each order that is tempting and wrong, and
//! `docs/contract-matrix.md` to which laws every layer is held.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `axum` | no | `route::matched`: policies by the template of the axum route |
//! | `metrics` | no | counters, gauges and histograms of [upstreams](upstream), [balancers](balance), [discovery](discover), [checks](health), [hedges](hedge), [deadlines](timeout) and [retries](retry), through the `metrics` facade |
//! | `tracing` | no | log events of what changes and of what went wrong, and a debug span `attempt` with the fields `upstream` and `endpoint` around each attempt of an [`Upstream`](upstream::Upstream), through `tracing` |
//! | `dns` | no | [discovery](discover) by A, AAAA and SRV records, through `hickory-resolver` |
//! | `file` | no | discovery by a watched TOML or JSON file |
//! | `http2` | no | HTTP/2 to the endpoints of an [`Upstream`](upstream::Upstream) |
//! | `grpc` | no | [health checks](health) by the standard gRPC health service |
//! | `rate-limit` | no | [rate limits](limit) per key, through `governor` |
//! | `gossip` | no | discovery by gossip between the nodes, through `chitchat` |
//! | `chaos` | no | faults injected on purpose: latency, errors, statuses, cut connections |

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

pub mod balance;
pub mod body;
pub mod breaker;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod discover;
pub mod drain;
pub mod fallback;
pub mod health;
pub mod hedge;
pub mod limit;
pub mod outlier;
pub mod problem;
pub mod proxy;
pub mod retry;
pub mod route;
pub mod timeout;
pub mod tried;
pub mod upstream;

mod clock;
// Without the feature, what was made to be told is not used.
#[cfg(all(test, feature = "metrics"))]
mod recorded;
mod task;
#[cfg_attr(not(feature = "tracing"), allow(unused_imports, unused_macros))]
mod trace;
