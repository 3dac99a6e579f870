//! Answers that this crate makes itself: `application/problem+json` (RFC 9457) with `Retry-After` where waiting helps.
//!
//! Every such answer carries the [`LocalReply`] extension. Layers further out look for it, so that a retry, a breaker or
//! a load balancer never mistakes "the edge had no time left" for "the upstream failed".

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

/// Response extension: this answer was made by a layer of this process, not by whatever is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReply;

/// A problem document and the response that carries it.
///
/// ```
/// use ha_tower::problem::Problem;
/// use http::StatusCode;
/// use std::time::Duration;
///
/// let response = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
///     .detail("no endpoint of \"catalog\" is available")
///     .retry_after(Duration::from_secs(1))
///     .into_response::<bytes::Bytes>();
/// assert_eq!(response.headers()["retry-after"], "1");
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    request_id: Option<HeaderValue>,
}

impl Problem {
    /// A problem whose title is the reason phrase of `status`.
    #[must_use]
    pub const fn new(status: StatusCode) -> Self {
        Self {
            status,
            detail: None,
            retry_after: None,
            request_id: None,
        }
    }

    /// What went wrong this time, for a human. It reaches the client: no secrets, no internal addresses.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// How long the client should wait before it asks again; rounded up to whole seconds.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The id under which the logs know this request.
    #[must_use]
    pub fn request_id(mut self, id: HeaderValue) -> Self {
        self.request_id = Some(id);
        self
    }

    /// The response, with a body of any type that bytes can become.
    #[must_use]
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
        });
        if let Some(detail) = self.detail {
            document["detail"] = json!(detail);
        }
        if let Some(id) = self.request_id.as_ref().and_then(|id| id.to_str().ok()) {
            document["request_id"] = json!(id);
        }
        let mut response = Response::new(Bytes::from(document.to_string()).into());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(LocalReply);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_the_status_the_detail_and_the_request() {
        let response: Response<Bytes> = Problem::new(StatusCode::BAD_GATEWAY)
            .detail("a \"quoted\" reason")
            .request_id(HeaderValue::from_static("r-1"))
            .into_response();
        let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            document,
            json!({
                "type": "about:blank",
                "title": "Bad Gateway",
                "status": 502,
                "detail": "a \"quoted\" reason",
                "request_id": "r-1",
            })
        );
        assert!(response.extensions().get::<LocalReply>().is_some());
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn the_longest_wait_there_is_does_not_overflow() {
        let response: Response<Bytes> = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .retry_after(Duration::MAX)
            .into_response();
        assert_eq!(response.headers()[RETRY_AFTER], u64::MAX.to_string());
    }

    #[test]
    fn waits_are_rounded_up_so_that_nobody_comes_back_too_early() {
        for (millis, header) in [(0, "0"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let response: Response<Bytes> = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                .retry_after(Duration::from_millis(millis))
                .into_response();
            assert_eq!(response.headers()[RETRY_AFTER], header, "{millis} ms");
        }
    }
}
