//! What differs from route to route: deadline, retries, hedging, priority and the key of a rate limit.
//!
//! # The problem
//!
//! One stack of layers serves routes that have little in common. A report may take a minute, a search a second; a GET that
//! sends mail must not be repeated, a POST that is safe may be; the checkout goes before the prefetch. A stack per route says the same,
//! many times over, with a budget and a breaker each, although they all send to the same place.
//!
//! # How it works
//!
//! A [`Policy`] is a value among the request's extensions. The layers further in look for it and let it take the place of
//! their own settings; what it does not name stays as the layer has it:
//!
//! | setting | honoured by |
//! |---|---|
//! | [`deadline`](Builder::deadline) | [`TimeoutLayer`](crate::timeout::TimeoutLayer) |
//! | [`retry`](Builder::retry), [`idempotent`](Builder::idempotent) | [`RetryLayer`](crate::retry::RetryLayer) |
//! | [`hedge`](Builder::hedge), [`idempotent`](Builder::idempotent) | [`HedgeLayer`](crate::hedge::HedgeLayer) |
//! | [`priority`](Builder::priority), [`limit_key`](Builder::limit_key) | the layers of [`limit`](crate::limit), which find them as [`Priority`](crate::limit::Priority) and [`LimitKey`](crate::limit::LimitKey) |
//!
//! There are three ways to put it there:
//!
//! - [`PolicyLayer`] holds a table of [matchers](Matcher), by method, path, template or a closure; the first that fits decides.
//! - A [`Policy`] is a layer itself, for `Router::route_layer`, `MethodRouter::layer` and the like.
//! - Anything that inserts extensions, such as `axum::Extension(policy)`. Priority and limit key are then to be inserted as
//!   their own types, because the layers of `limit` look for those.
//!
//! Whichever way, it must happen **outside** of the layers that honour it. A policy that is set further in takes the
//! settings that it does not name from the one further out (but `axum::Extension` replaces it as a whole).
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, routing::get};
//! use ha_tower::limit::Priority;
//! use ha_tower::route::{self, Policy, PolicyLayer, Retry};
//! use ha_tower::timeout::TimeoutLayer;
//! use http::{Method, Request, StatusCode};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! let patient = Policy::builder().deadline(Duration::from_secs(60)).priority(Priority::Sheddable).build()?;
//! let once = Policy::builder().retry(Retry::Off).build()?;
//! let policies = PolicyLayer::builder()
//!     .route(route::path("/reports/{id}"), patient)
//!     .route(route::method(Method::POST).and(route::prefix("/mail")), once)
//!     .build()?;
//!
//! let slow = || tokio::time::sleep(Duration::from_secs(30));
//! let app = Router::new().route("/reports/{id}", get(slow)).route("/search", get(slow)).layer(
//!     ServiceBuilder::new().layer(policies).layer(TimeoutLayer::deadline(Duration::from_secs(1))),
//! );
//! for (path, status) in [("/reports/7", StatusCode::OK), ("/search", StatusCode::GATEWAY_TIMEOUT)] {
//!     let response = app.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
//!     assert_eq!(response.status(), status, "{path}");
//! }
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # Which path is seen
//!
//! [`path`] and [`prefix`] look at the path as it is where the layer stands: inside of `Router::nest` axum has taken the
//! prefix off. `matched` (feature `axum`) compares with the whole template of the route that axum has chosen, nested ones
//! included; it needs a layer on a `Router`, because nothing has been chosen outside of it.

mod layer;
mod matcher;
mod policy;

pub use layer::{LayerBuilder, PolicyLayer, PolicyService};
#[cfg(feature = "axum")]
pub use matcher::matched;
pub use matcher::{Matcher, method, path, prefix, when};
pub use policy::{Builder, Hedge, Policy, Retry};

#[cfg(test)]
mod tests;
