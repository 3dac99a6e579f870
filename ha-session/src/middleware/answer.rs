//! What the layer puts on an answer, and the answer it gives instead of the handler's.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SET_COOKIE, VARY};
use http::{HeaderMap, Response, StatusCode};

use crate::error::SessionError;
use crate::observe;
use crate::session::Effects;

const NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Adds the cookie, and keeps shared caches from giving one user's answer to another.
pub(crate) fn complete<B>(mut response: Response<B>, effects: Effects) -> Response<B> {
    let headers = response.headers_mut();
    let cookies = [
        effects.set_cookie,
        effects.set_version,
        effects.set_ticket,
        effects.clear_legacy,
    ];
    if effects.private {
        vary_on_cookie(headers);
        if !headers.contains_key(CACHE_CONTROL) || cookies.iter().any(Option::is_some) {
            headers.insert(CACHE_CONTROL, NO_STORE);
        }
    }
    for cookie in cookies.into_iter().flatten() {
        headers.append(SET_COOKIE, cookie);
    }
    response
}

fn vary_on_cookie(headers: &mut HeaderMap) {
    let varies = headers
        .get_all(VARY)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case("cookie"));
    if !varies {
        headers.append(VARY, HeaderValue::from_static("cookie"));
    }
}

/// A problem document (RFC 9457).
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

impl Problem {
    pub(crate) fn of(error: &SessionError, retry_after: Duration) -> Self {
        let (status, title) = match error {
            SessionError::Unknown(_) | SessionError::NotCommitted(_) | SessionError::Random(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "Session store unavailable")
            }
            SessionError::Revoked => (StatusCode::SERVICE_UNAVAILABLE, "Sign-in was overtaken"),
            SessionError::Superseded => (StatusCode::SERVICE_UNAVAILABLE, "Session id was rotated"),
            SessionError::Ended => (StatusCode::CONFLICT, "Session ended"),
            SessionError::Conflict { .. } => (StatusCode::CONFLICT, "Session changed"),
            SessionError::ValueTooLarge { .. } | SessionError::SessionTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "Session too large")
            }
            SessionError::NoPrincipal => (StatusCode::CONFLICT, "Nobody is signed in"),
            SessionError::BadName { .. }
            | SessionError::BadPrincipal { .. }
            | SessionError::Encode { .. }
            | SessionError::Decode { .. }
            | SessionError::Answered
            | SessionError::ValueFormat { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "Session value unusable")
            }
        };
        if status.is_server_error() {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                status = status.as_u16(),
                "session failed the request"
            );
        }
        Self {
            status,
            title,
            detail: error.to_string(),
            retry_after: error.is_retryable().then_some(retry_after),
        }
    }

    #[cfg(feature = "axum")]
    pub(crate) fn missing_layer() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "Session layer missing",
            detail: "the route has no session layer".to_owned(),
            retry_after: None,
        }
    }

    pub(crate) fn into_response(self) -> Response<Bytes> {
        observe::refused(self.status.as_u16());
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response
    }
}
