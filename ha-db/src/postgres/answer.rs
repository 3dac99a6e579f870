//! What a database error looks like to an HTTP client.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use super::Error;
use crate::problem_document;

/// A failover takes a few seconds, so a client that waits one and tries again is soon served.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// `503` with `Retry-After` where the database could not be reached, changed under the request or left the outcome open;
/// `409` where an earlier write of this client is lost; else `500`. The body is a problem document (RFC 9457) that names no
/// node and no statement: those go to the log.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let lost = self.is_lost();
        let again = self.is_unavailable() || self.is_retryable();
        let (status, detail) = match &self {
            _ if lost => (
                StatusCode::CONFLICT,
                "an earlier write of this client did not survive a failover",
            ),
            Self::CommitUnknown { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "it is not known whether the write was applied; under the same Idempotency-Key it may be sent again",
            ),
            _ if again => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the database cannot answer now",
            ),
            _ => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the database refused the request",
            ),
        };
        tracing::warn!(
            error = &self as &dyn std::error::Error,
            status = status.as_u16(),
            "database failed the request"
        );
        let body = problem_document::body(status, detail);
        let kind = [(CONTENT_TYPE, problem_document::CONTENT)];
        let mut response = (status, kind, body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, AGAIN);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::postgres::NoPrimary;

    #[test]
    fn an_outage_asks_to_come_back_and_a_fault_does_not() {
        let cases = [
            (Error::NoReplica, 503),
            (Error::ReadOnly { node: "a".into() }, 503),
            (
                Error::NoPrimary {
                    waited: Duration::ZERO,
                    reason: NoPrimary::NotFound,
                },
                503,
            ),
            (
                Error::CommitUnknown {
                    node: "a".into(),
                    source: crate::postgres::CommitCause::Deadline,
                    doubt: None,
                },
                503,
            ),
            (Error::RolledBack { node: "a".into() }, 500),
        ];
        for (error, status) in cases {
            let text = error.to_string();
            let response = error.into_response();
            assert_eq!(response.status(), status, "{text}");
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                status == 503,
                "{text}"
            );
            assert_eq!(response.headers()[CONTENT_TYPE], problem_document::CONTENT);
        }
    }
}
