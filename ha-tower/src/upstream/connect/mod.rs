//! The connections to one endpoint: who may open one, how it is opened, and when it is closed.
//!
//! Each endpoint has a [`Client`] of its own, so that its removal closes what is idle there and nothing else. The bound
//! on connections is a semaphore whose permit stands for one busy connection (HTTP/1.1) or one stream (HTTP/2): whoever
//! holds one finds either an idle connection or room for a new one.

mod client;
mod dial;
mod driver;
mod error;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod io;
mod limits;
mod settings;

pub(super) use client::{Client, Failure, Options, Progress, Received};
pub use error::ConnectError;
pub(super) use limits::Counts;
pub use settings::Connections;
#[cfg(feature = "http2")]
pub use settings::Http2;
