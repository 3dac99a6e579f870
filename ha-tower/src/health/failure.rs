use std::io;
use std::time::Duration;

use ::http::StatusCode;
use tower::BoxError;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The check was not over in time.
    #[error("the check was not over within {limit:?}")]
    Timeout {
        /// The timeout of the check.
        limit: Duration,
    },
    /// No connection could be opened.
    #[error("no connection to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The connection broke off, or the answer is not what the protocol allows.
    #[error("the exchange broke off")]
    Exchange(#[source] BoxError),
    /// The status is none of those that pass.
    #[error("the answer has the status {status}")]
    Status {
        /// The status of the answer.
        status: StatusCode,
    },
    /// The answer is longer than what is read of it.
    #[error("the answer has more than {limit} bytes")]
    TooLong {
        /// How many bytes are read.
        limit: usize,
    },
    /// The answer ended without the text that it must contain.
    #[error("the answer does not contain {expected:?}")]
    Unexpected {
        /// The text; bytes that are not UTF-8 are replaced.
        expected: String,
    },
    /// The gRPC health service refused the question.
    #[error("the health service answered with the gRPC status {code}")]
    GrpcStatus {
        /// The code as it came, such as `5` for a service that is not known.
        code: String,
    },
    /// The gRPC health service says that the service does not serve.
    #[error("the health service says that it does not serve: status {status}")]
    NotServing {
        /// The number in the protocol: 2 is `NOT_SERVING`.
        status: i32,
    },
    /// A check of yours says so.
    #[error("the custom check failed")]
    Custom(#[source] BoxError),
    /// The check panicked.
    #[error("the check panicked")]
    Panicked,
}

impl Failure {
    pub(super) fn exchange(error: impl Into<BoxError>) -> Self {
        Self::Exchange(error.into())
    }

    pub(super) fn unexpected(expected: &[u8]) -> Self {
        Self::Unexpected {
            expected: String::from_utf8_lossy(expected).into_owned(),
        }
    }

    /// Whether the endpoint did not answer in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// Whether there was no connection.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}
