use std::time::Duration;

use tower::BoxError;

/// Why a call through a breaker failed.
///
/// A router takes no service that fails ("the trait bound `Infallible: From<breaker::Error>` is not satisfied"): there the layer made by
/// [`BreakerLayer::into_http`](super::BreakerLayer::into_http) answers by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The breaker is open. Nothing was sent.
    #[error("circuit breaker is open")]
    Open {
        /// How long until the next probe may go, as far as that is known.
        retry_in: Option<Duration>,
    },
    /// The service failed.
    #[error("service behind the circuit breaker failed")]
    Service(#[source] BoxError),
}

impl Error {
    /// Whether the call was refused because the breaker is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// How long until the next probe may go, where the breaker is open and knows it.
    #[must_use]
    pub fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::Open { retry_in } => *retry_in,
            Self::Service(_) => None,
        }
    }
}
