use std::net::SocketAddr;

use ha_core::config::ConfigError;
use ha_core::endpoint::{EndpointError, EndpointKey};
use tower::BoxError;

/// Why a node could not join or announce.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense.
    #[error("a setting of gossip makes no sense")]
    Config(#[source] ConfigError),
    /// An endpoint says more about itself than fits into a message.
    #[error("the announcement of {service:?} has {bytes} bytes, at most {limit} fit")]
    TooLarge {
        /// The service.
        service: String,
        /// The size of the announcement.
        bytes: usize,
        /// The largest.
        limit: usize,
    },
    /// An endpoint has a scheme that no client here speaks.
    #[error("the endpoint of {service:?} has the scheme {scheme:?}, only \"http\" is spoken")]
    Scheme {
        /// The service.
        service: String,
        /// The scheme.
        scheme: String,
    },
    /// The socket could not be opened.
    #[error("gossip could not listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
    /// The names of the seeds took too long to look up.
    #[error("gossip did not start within {limit:?}")]
    Timeout {
        /// How long was waited.
        limit: std::time::Duration,
    },
}

/// Why something that was gossiped brought no endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnouncementError {
    /// It is not what a node of this crate announces.
    #[error("node {node} announces {service:?} in a form that cannot be read")]
    Malformed {
        /// The node.
        node: String,
        /// The service.
        service: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Its address or its weight is refused.
    #[error("node {node} announces {service:?} with an endpoint that is refused")]
    Endpoint {
        /// The node.
        node: String,
        /// The service.
        service: String,
        /// What is wrong.
        #[source]
        source: EndpointError,
    },
    /// Its address has a scheme that no client here speaks.
    #[error(
        "node {node} announces {service:?} with the scheme {scheme:?}, only \"http\" is spoken"
    )]
    Scheme {
        /// The node.
        node: String,
        /// The service.
        service: String,
        /// The scheme.
        scheme: String,
    },
    /// Two nodes announce the same key with different addresses. The one that started later counts.
    #[error("nodes {older} and {newer} both announce {key}")]
    Repeated {
        /// The key.
        key: EndpointKey,
        /// The node that does not count.
        older: String,
        /// The node that counts.
        newer: String,
    },
    /// The node has left, or its socket failed. Nothing more is heard.
    #[error("gossip has stopped")]
    Stopped,
}
