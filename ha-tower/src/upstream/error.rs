use std::time::Duration;

use ha_core::endpoint::EndpointKey;
use tower::BoxError;

use super::ConnectError;
use super::connect::Failure;
use crate::balance;

/// Why a request through an [`Upstream`](super::Upstream) brought no response head.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No endpoint could be picked: none is known, or each fails its health check or has an open breaker. Nothing was
    /// sent.
    #[error("upstream {upstream:?} has no available endpoint ({known} known)")]
    Unavailable {
        /// The name of the upstream.
        upstream: String,
        /// How many endpoints it knows.
        known: usize,
    },
    /// No connection could be opened. Nothing was sent.
    #[error("could not connect to endpoint {endpoint}")]
    Connect {
        /// Where the attempt went.
        endpoint: EndpointKey,
        /// What failed on the way.
        #[source]
        source: ConnectError,
    },
    /// All connections to the endpoint are busy and as many requests as may wait for one do so. Nothing was sent.
    #[error("endpoint {endpoint} has no free connection, and its queue is full")]
    Full {
        /// Where the attempt was to go.
        endpoint: EndpointKey,
    },
    /// The request did not reach the application: the connection was closed before any byte of it was written, or the
    /// endpoint said that it has not looked at it (an HTTP/2 stream that was refused or came after GOAWAY).
    #[error("endpoint {endpoint} did not take the request")]
    Unsent {
        /// Where the attempt went.
        endpoint: EndpointKey,
        /// What the client said.
        #[source]
        source: hyper::Error,
    },
    /// The response head did not come in time. The application may have acted on the request if it was sent.
    #[error("endpoint {endpoint} sent no response head within {limit:?}")]
    Timeout {
        /// Where the attempt went.
        endpoint: EndpointKey,
        /// The attempt timeout.
        limit: Duration,
        /// Whether the request had been handed to a connection; else all of the time went by in the queue for one.
        sent: bool,
    },
    /// The connection broke or the answer was not HTTP. The application may have acted on the request.
    #[error("exchange with endpoint {endpoint} failed")]
    Exchange {
        /// Where the attempt went.
        endpoint: EndpointKey,
        /// What the client said.
        #[source]
        source: hyper::Error,
    },
    /// The request cannot be sent: its target or version does not fit an endpoint. Nothing was sent.
    #[error("request target cannot be sent to endpoint {endpoint}")]
    Request {
        /// Where the attempt was to go.
        endpoint: EndpointKey,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// Something else went wrong at the endpoint. The application may have acted on the request.
    #[error("endpoint {endpoint} failed")]
    Other {
        /// Where the attempt went.
        endpoint: EndpointKey,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
}

impl Error {
    /// Whether there was nothing to pick.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether opening a connection failed or took too long.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether the request provably never reached the application, so that even one that is not idempotent may be
    /// sent again.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Connect { .. }
                | Self::Full { .. }
                | Self::Unsent { .. }
                | Self::Request { .. }
                | Self::Timeout { sent: false, .. }
        )
    }

    /// Whether the limits of the connections to the endpoint refused the request.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the response head did not come in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// The endpoint that the attempt went to, if one was picked.
    #[must_use]
    pub fn endpoint(&self) -> Option<&EndpointKey> {
        match self {
            Self::Unavailable { .. } => None,
            Self::Connect { endpoint, .. }
            | Self::Full { endpoint }
            | Self::Unsent { endpoint, .. }
            | Self::Timeout { endpoint, .. }
            | Self::Exchange { endpoint, .. }
            | Self::Request { endpoint, .. }
            | Self::Other { endpoint, .. } => Some(endpoint),
        }
    }

    pub(super) fn from_balance(error: balance::Error, upstream: &str) -> Self {
        match error {
            balance::Error::Unavailable { known } => Self::Unavailable {
                upstream: upstream.to_owned(),
                known,
            },
            balance::Error::Endpoint { endpoint, source } => match source.downcast() {
                Ok(error) => *error,
                // Attempts fail with this type and no other.
                Err(source) => Self::Other { endpoint, source },
            },
        }
    }

    pub(super) fn from_failure(endpoint: EndpointKey, failure: Failure) -> Self {
        match failure {
            Failure::Full => Self::Full { endpoint },
            Failure::Connect(source) => Self::Connect { endpoint, source },
            Failure::Unsent(source) => Self::Unsent { endpoint, source },
            Failure::Broken(source) => Self::Exchange { endpoint, source },
            Failure::Request(source) => Self::Request { endpoint, source },
        }
    }
}
