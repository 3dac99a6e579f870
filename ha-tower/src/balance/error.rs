use ha_core::endpoint::EndpointKey;
use tower::BoxError;

/// Why a balanced call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No endpoint could be picked. Nothing was sent.
    #[error("no available endpoint ({known} known)")]
    Unavailable {
        /// How many endpoints are known.
        known: usize,
    },
    /// The service of the endpoint that was picked failed.
    #[error("endpoint {endpoint} failed")]
    Endpoint {
        /// The one that was picked.
        endpoint: EndpointKey,
        /// What its service said.
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
}
