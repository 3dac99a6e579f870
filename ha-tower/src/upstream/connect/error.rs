use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Why a connection could not be opened. Several requests that waited for the same connection get the same error, so the
/// causes are shared.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host name has no address.
    #[error("could not resolve host {host:?}")]
    Resolve {
        /// The name.
        host: Arc<str>,
        /// What the resolver said; not found when it answered with an empty list.
        #[source]
        source: Arc<io::Error>,
    },
    /// No address could be reached; this is the first one that failed.
    #[error("could not open a TCP connection to {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Resolving and connecting together took too long.
    #[error("no connection within {limit:?}")]
    Timeout {
        /// The connect timeout, or the attempt timeout if that is shorter.
        limit: Duration,
    },
    /// The connection broke before it could carry a request.
    #[error("the connection broke during its handshake")]
    Handshake {
        /// What the HTTP client said.
        #[source]
        source: Arc<hyper::Error>,
    },
}

impl ConnectError {
    /// Whether it took too long, rather than being refused.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}
