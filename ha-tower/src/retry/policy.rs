use std::error::Error;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy;

use super::MARKER;
use crate::body::ReplayError;
use crate::problem::LocalReply;
use crate::upstream;

/// What a request allows, known before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// Never again: another tier retries, or the connection itself is the request.
    Once,
    /// Only if it provably never reached the application.
    WhenUnsent,
    /// After any failure.
    Idempotent,
}

impl Safety {
    pub(super) fn of<B>(request: &Request<B>, honour_key: bool) -> Self {
        let headers = request.headers();
        if headers.contains_key(MARKER)
            || request.method() == Method::CONNECT
            || headers.contains_key(http::header::UPGRADE)
        {
            Self::Once
        } else if request.method().is_idempotent() || honour_key && names_one_key(headers) {
            Self::Idempotent
        } else {
            Self::WhenUnsent
        }
    }
}

/// An empty or ambiguous key identifies nothing, so that a server cannot keep its side.
fn names_one_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all("idempotency-key").iter();
    matches!((keys.next(), keys.next()), (Some(key), None) if !key.as_bytes().trim_ascii().is_empty())
}

/// What an attempt's outcome asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Again, not before `after` plus the backoff.
    Retry {
        after: Duration,
    },
}

const NOW: Verdict = Verdict::Retry {
    after: Duration::ZERO,
};

pub(super) fn judge_response<B>(response: &Response<B>, safety: Safety, cap: Duration) -> Verdict {
    let again = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if !again || safety != Safety::Idempotent || response.extensions().get::<LocalReply>().is_some()
    {
        return Verdict::Pass;
    }
    match retry_after(response.headers(), SystemTime::now()) {
        Some(after) if after > cap => Verdict::Pass,
        Some(after) => Verdict::Retry { after },
        None => NOW,
    }
}

pub(super) fn judge_error(error: &(dyn Error + 'static), safety: Safety) -> Verdict {
    let mut unsent = false;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<upstream::Error>() {
            if error.is_unavailable() {
                return Verdict::Pass;
            }
            unsent |= error.is_unsent();
        } else if let Some(error) = error.downcast_ref::<legacy::Error>() {
            unsent |= error.is_connect();
        } else if let Some(ReplayError::Body(_)) = error.downcast_ref() {
            // The caller's own stream broke: no endpoint can help.
            return Verdict::Pass;
        }
        cause = error.source();
    }
    match safety {
        Safety::Idempotent => NOW,
        Safety::WhenUnsent if unsent => NOW,
        Safety::WhenUnsent | Safety::Once => Verdict::Pass,
    }
}

/// Seconds or a date; anything else is as if it were not there.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are longer than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method(method);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn methods_and_headers_decide_what_is_safe() {
        let key = [("idempotency-key", "k")];
        let (empty, two) = ([("idempotency-key", " ")], [key[0], key[0]]);
        for (method, headers, honour, expected) in [
            (Method::GET, &[][..], false, Safety::Idempotent),
            (Method::HEAD, &[], false, Safety::Idempotent),
            (Method::OPTIONS, &[], false, Safety::Idempotent),
            (Method::TRACE, &[], false, Safety::Idempotent),
            (Method::PUT, &[], false, Safety::Idempotent),
            (Method::DELETE, &[], false, Safety::Idempotent),
            (Method::POST, &[], false, Safety::WhenUnsent),
            (Method::POST, &[], true, Safety::WhenUnsent),
            (Method::POST, &key, false, Safety::WhenUnsent),
            (Method::POST, &key, true, Safety::Idempotent),
            (Method::POST, &empty, true, Safety::WhenUnsent),
            (Method::POST, &two, true, Safety::WhenUnsent),
            (Method::PATCH, &[], false, Safety::WhenUnsent),
            (Method::PATCH, &key, true, Safety::Idempotent),
            (Method::CONNECT, &[], false, Safety::Once),
            (
                Method::GET,
                &[("x-retry-attempt", "2")],
                false,
                Safety::Once,
            ),
            (
                Method::GET,
                &[("upgrade", "websocket")],
                false,
                Safety::Once,
            ),
        ] {
            let request = request(method, headers);
            assert_eq!(
                Safety::of(&request, honour),
                expected,
                "{request:?} {honour}"
            );
        }
    }

    #[test]
    fn statuses_decide_and_local_answers_never_ask_for_more() {
        let cap = Duration::from_secs(5);
        for status in 100..600u16 {
            let status = StatusCode::from_u16(status).unwrap();
            let mut response = Response::new(());
            *response.status_mut() = status;
            let again = [429, 502, 503, 504].contains(&status.as_u16());
            let verdict = judge_response(&response, Safety::Idempotent, cap);
            assert_eq!(verdict != Verdict::Pass, again, "{status}");
            assert_eq!(
                judge_response(&response, Safety::WhenUnsent, cap),
                Verdict::Pass
            );
            response.extensions_mut().insert(LocalReply);
            assert_eq!(
                judge_response(&response, Safety::Idempotent, cap),
                Verdict::Pass
            );
        }
    }

    #[test]
    fn retry_after_is_waited_for_up_to_the_cap() {
        let cap = Duration::from_secs(5);
        for (value, expected) in [
            ("0", NOW),
            ("5", Verdict::Retry { after: cap }),
            ("6", Verdict::Pass),
            ("99999999999999999999999", Verdict::Pass),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Verdict::Pass),
            ("Thu, 01 Jan 1970 00:00:00 GMT", NOW),
            ("-1", NOW),
            ("soon", NOW),
            ("", NOW),
        ] {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
                .headers_mut()
                .insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(
                judge_response(&response, Safety::Idempotent, cap),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_date_is_counted_from_now() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(
            RETRY_AFTER,
            "Sun, 06 Nov 1994 08:49:40 GMT".parse().unwrap(),
        );
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(3)));
    }
}
