//! Many endpoints, called as if they were one.
//!
//! [`Upstream`] is the assembly that most services want: discovery, active health checks, balancing, a breaker per
//! endpoint and an HTTP/1.1 client per endpoint, behind one `tower::Service` that is `Clone` and always ready.

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
