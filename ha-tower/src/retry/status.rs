use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};

use super::policy::{Cause, Judgement, Verdict};

/// By status and `Retry-After`. One that makes no sense is as if it were not there.
pub(super) fn judge_response<B>(response: &Response<B>) -> Judgement {
    let again = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if !again {
        return Judgement::from(Verdict::Pass);
    }
    let cause = Cause::Status;
    match retry_after(response.headers(), SystemTime::now()) {
        None => Judgement::from(Verdict::now(cause)),
        Some(Ok(after)) => Judgement::from(Verdict::Retry { after, cause }),
        Some(Err(Nonsense)) => Judgement {
            verdict: Verdict::now(cause),
            bad_header: Some("retry-after"),
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Nonsense;

/// Seconds or a date; a date that has passed is now.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Result<Duration, Nonsense>> {
    let value = headers.get(RETRY_AFTER)?;
    Some(parse(value.as_bytes(), now).ok_or(Nonsense))
}

fn parse(value: &[u8], now: SystemTime) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are longer than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, retry_after: Option<HeaderValue>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some(value) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }

    #[test]
    fn four_statuses_are_worth_another_attempt() {
        for status in 100..600 {
            let again = [429, 502, 503, 504].contains(&status);
            let verdict = judge_response(&response(status, None)).verdict;
            assert_eq!(verdict != Verdict::Pass, again, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_nonsense_is_counted_and_ignored() {
        let after = |secs| (Some(Duration::from_secs(secs)), false);
        for (value, (expected, bad)) in [
            ("0", after(0)),
            (" 5 ", after(5)),
            ("99999999999999999999999", after(u64::MAX)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", after(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", (None, false)),
            ("-1", (Some(Duration::ZERO), true)),
            ("1.5", (Some(Duration::ZERO), true)),
            ("soon", (Some(Duration::ZERO), true)),
            ("", (Some(Duration::ZERO), true)),
            (
                "Fri, 31 Dec 99999 23:59:59 GMT",
                (Some(Duration::ZERO), true),
            ),
        ] {
            let judged = judge_response(&response(503, Some(value.parse().unwrap())));
            let Verdict::Retry { after, .. } = judged.verdict else {
                panic!("{value:?}: {judged:?}");
            };
            assert_eq!(judged.bad_header.is_some(), bad, "{value:?}");
            match expected {
                Some(expected) => assert_eq!(after, expected, "{value:?}"),
                None => assert!(after > Duration::from_secs(86_400), "{value:?}"),
            }
        }
        let bytes = HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        let judged = judge_response(&response(503, Some(bytes)));
        assert_eq!(judged.bad_header, Some("retry-after"));
    }

    #[test]
    fn a_date_is_counted_from_now() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let date = b"Sun, 06 Nov 1994 08:49:40 GMT";
        assert_eq!(parse(date, now), Some(Duration::from_secs(3)));
    }

    proptest! {
        #[test]
        fn whatever_a_header_says_there_is_a_verdict(value in prop::collection::vec(0x20u8..0x7f, 0..64)) {
            let judged = judge_response(&response(429, HeaderValue::from_bytes(&value).ok()));
            prop_assert_ne!(judged.verdict, Verdict::Pass);
        }
    }
}
