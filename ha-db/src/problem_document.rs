//! Failures as HTTP clients see them: `application/problem+json` (RFC 9457).

use http::{HeaderValue, StatusCode};

pub(crate) const CONTENT: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The body. It names no node and no statement: those go to the log.
pub(crate) fn body(status: StatusCode, detail: &str) -> String {
    serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    })
    .to_string()
}
