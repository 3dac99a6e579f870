//! The layer's own answers, `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use super::error::Error;
use super::key::KeyError;
use crate::problem_document;

/// Why the layer answers instead of the handler.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("Idempotency-Key: {0}")]
    Key(#[from] KeyError),
    #[error("a request with an Idempotency-Key may have a body of at most {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body could not be read")]
    Body,
    #[error("the body did not arrive within {seconds} s")]
    SlowBody { seconds: u64 },
    #[error("this Idempotency-Key was used for a different request")]
    KeyReused,
    #[error("a request with this Idempotency-Key is still being worked on")]
    Busy,
    #[error("the outcome is not known yet; send the request again with the same Idempotency-Key")]
    CommitUnknown,
    #[error("the database cannot take writes right now; nothing was changed")]
    Unavailable,
    #[error(
        "an earlier write of this client did not survive a failover; this request changed nothing"
    )]
    Lost,
    #[error("the request took more than {seconds} s; nothing was changed")]
    SlowHandler { seconds: u64 },
    #[error("the answer has more than {limit} bytes, too many to store; nothing was changed")]
    LongAnswer { limit: usize },
    #[error("a statement of the request had failed; nothing was changed")]
    RolledBack,
    #[error("IdempotencyLayer needs CausalLayer outside of it")]
    MissingCausalLayer,
    #[error("the request could not be completed; nothing was changed")]
    Internal,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::KeyReused => Self::KeyReused,
            Error::Busy => Self::Busy,
            Error::CommitUnknown(_) => Self::CommitUnknown,
            Error::RolledBack => Self::RolledBack,
            Error::Database(error) if error.is_lost() => Self::Lost,
            error if error.is_retryable() => Self::Unavailable,
            Error::Database(_) | Error::Format => Self::Internal,
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Key(_) | Self::Body => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            // `Lost` is told once, with a token with which the next try is let through: what repeats a 503 would swallow it.
            Self::Busy | Self::Lost => StatusCode::CONFLICT,
            Self::CommitUnknown | Self::Unavailable | Self::SlowHandler { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::LongAnswer { .. }
            | Self::RolledBack
            | Self::MissingCausalLayer
            | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn respond<B>(&self) -> Response<ResponseBody<B>> {
        let status = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(reason = %self, "keyed request failed");
        } else {
            tracing::debug!(%status, reason = %self, "keyed request refused");
        }
        let text = problem_document::body(status, &self.to_string());
        let mut response = Response::new(ResponseBody::complete(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, problem_document::CONTENT);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::Busy) || status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
