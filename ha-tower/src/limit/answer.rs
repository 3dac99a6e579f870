use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::error::Remaining;
use super::{Reason, Shed};
use crate::problem::Problem;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The answers to refused requests, made once: under overload most of what a server does is to refuse.
#[derive(Debug, Clone)]
pub(super) struct Answers(Arc<[Response<Bytes>; 7]>);

impl Answers {
    pub(super) fn new(retry_after: Duration) -> Self {
        let answer = |reason: Reason| {
            let status = match reason {
                Reason::Rate => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            Problem::new(status)
                .detail(reason.detail())
                .retry_after(retry_after)
                .into_response()
        };
        Self(Arc::new([
            answer(Reason::Full),
            answer(Reason::Displaced),
            answer(Reason::Delay),
            answer(Reason::Deadline),
            answer(Reason::NotReady),
            answer(Reason::Rate),
            answer(Reason::Throttled),
        ]))
    }

    pub(super) fn of(&self, shed: Shed) -> Response<Bytes> {
        let mut response = self.0[shed.reason as usize].clone();
        if let Some(wait) = shed.retry_after {
            let seconds = HeaderValue::from(whole_seconds(wait));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if let Some(quota) = shed.quota {
            self.announce(response.headers_mut(), &quota);
        }
        response
    }

    /// Writes what is left of a rate, as the IETF's draft "RateLimit header fields for HTTP" has it.
    pub(super) fn announce(&self, headers: &mut HeaderMap, quota: &Remaining) {
        let (left, whole_in) = (quota.left, whole_seconds(quota.whole_in));
        let (burst, window) = (quota.burst, whole_seconds(quota.window));
        for (name, text) in [
            (LIMIT, format!("\"default\";r={left};t={whole_in}")),
            (POLICY, format!("\"default\";q={burst};w={window}")),
        ] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }
}

// Rounded up, so that nobody comes back too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0))
}
