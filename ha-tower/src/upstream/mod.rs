//! Many endpoints, called as if they were one.
//!
//! [`Upstream`] is the assembly that most services want: discovery, active health checks, balancing, a breaker per
//! endpoint and an HTTP/1.1 client per endpoint, behind one `tower::Service` that is `Clone` and always ready.
//!
//! ```
//! use std::time::Duration;
//! use ha_tower::upstream::Upstream;
//! use ha_tower::{balance, breaker, discover, health};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let upstream = Upstream::builder("catalog")
//!     .discover(discover::fixed(["http://127.0.0.1:3000", "http://127.0.0.1:3001"])?)
//!     .balance(balance::P2c::peak_ewma())
//!     .health(health::Http::get("/readyz"))
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
//! [`Tried`](crate::tried::Tried), and makes exactly one attempt: the client never sends a request again by itself,
//! so that a retry layer outside sees every attempt. The attempt ends with the response head or the attempt timeout;
//! the body streams on for as long as it takes, and the request counts as in flight until it ends.
//!
//! The request's path, query, headers and body pass unchanged; scheme and authority of its URI become the endpoint's, and a `Host`
//! header that is there already stays.
//!
//! # What counts against an endpoint
//! A 5xx, a connect error, a broken exchange and a timeout count in its breaker and add to its cost. A 429 counts in
//! the breaker's ratio only. A 503 with `Retry-After` adds to the cost alone. A pooled connection that was closed before the request was
//! written counts as nothing; it is [`Error::Unsent`], which may be sent again whatever the method.
//!
//! # Not promised
//! One attempt is one attempt: put a [`retry`](crate::retry) layer and a deadline around it. HTTP/2 and TLS to the endpoint are not
//! spoken yet.

mod attempt;
mod body;
mod builder;
mod error;
mod protocol;
mod service;
mod snapshot;

pub use body::Body;
pub use builder::{BuildError, Builder};
pub use error::Error;
pub use service::{ResponseFuture, Upstream};
pub use snapshot::EndpointSnapshot;
