//! Outlier ejection: leaving endpoints that fail more than the others, by what requests say of them.
//!
//! The rules and their numbers are those of [`ha_core::outlier`]. An [`Upstream`](crate::upstream::Upstream) with
//! [`outlier`](crate::upstream::Builder::outlier) runs them by itself; beside a bare [`Balance`](crate::balance::Balance) with
//! [`outlier`](crate::balance::Builder::outlier) spawn [`drive`](crate::balance::Balance::drive):
//!
//! ```
//! use ha_core::endpoint::Endpoint;
//! use ha_tower::{balance::Balance, outlier};
//! use tower::service_fn;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let say = |name| service_fn(move |()| async move { Ok::<_, std::io::Error>(name) });
//! let balance = Balance::builder([("http://10.0.0.1".parse::<Endpoint>()?, say("one"))])
//!     .outlier(outlier::Config::default())
//!     .build()?;
//! // Ends with the last clone of the balancer.
//! tokio::spawn(balance.drive());
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! What counts: a 5xx, a timeout and a broken exchange are failures, a connection that could not be made is a connect
//! failure, and what was pushed back or cancelled says nothing. An active check that goes from failing to passing ends an ejection.

pub use ha_core::outlier::{Cause, Config, Failure, ReturnCause, SuccessRate};
