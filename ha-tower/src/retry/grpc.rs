use std::time::Duration;

use bytes::Bytes;
use ha_core::config::ConfigError;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::policy::{Cause, Judgement, Verdict};
use super::status::judge_response;
use crate::problem::LocalReply;

/// How many attempts came before this one (gRPC proposal A6).
pub(super) const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";
const STATUS: &str = "grpc-status";
const PUSHBACK: &str = "grpc-retry-pushback-ms";

const DEADLINE_EXCEEDED: &str = "4";
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const LAST: i32 = 16;

/// The statuses after which a call is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes(u32);

impl Default for Codes {
    fn default() -> Self {
        Self(1 << UNAVAILABLE)
    }
}

impl Codes {
    pub(super) fn new(codes: impl IntoIterator<Item = i32>) -> Result<Self, ConfigError> {
        let mut set = 0;
        for code in codes {
            if !(1..=LAST).contains(&code) {
                let must = "must be the number of a status that is an error, 1 to 16";
                return Err(ConfigError::new("retry.codes", code, must));
            }
            set |= 1 << code;
        }
        Ok(Self(set))
    }

    const fn contains(self, code: i32) -> bool {
        self.0 & (1 << code) != 0
    }
}

/// By the head: an answer that consists of it alone, or one that does not speak gRPC, as the 503 of a proxy in between.
pub(super) fn judge_head<B>(response: &Response<B>, codes: Codes) -> Judgement {
    if let Some(judgement) = judge_status(response.headers(), codes) {
        return judgement;
    }
    if response.status() != StatusCode::OK && codes.contains(UNAVAILABLE) {
        return judge_response(response);
    }
    Judgement::from(Verdict::Pass)
}

/// Whether the end of this answer will say how the call went.
pub(super) fn has_status_to_come<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::OK && !response.headers().contains_key(STATUS)
}

/// By the fields that end an answer; none when there is no status.
pub(super) fn judge_status(fields: &HeaderMap, codes: Codes) -> Option<Judgement> {
    let status = fields.get(STATUS)?;
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    let Some(code) = code.filter(|code| (0..=LAST).contains(code)) else {
        return Some(Judgement {
            verdict: Verdict::Pass,
            bad_header: Some(STATUS),
        });
    };
    let cause = Cause::Status;
    let pushback = Pushback::of(fields);
    let verdict = match pushback {
        _ if code != RESOURCE_EXHAUSTED && !codes.contains(code) => Verdict::Pass,
        // Without a word about when, more of the same only exhausts it further.
        Pushback::Silent if code == RESOURCE_EXHAUSTED => Verdict::Pass,
        Pushback::Silent => Verdict::now(cause),
        Pushback::After(after) => Verdict::Retry { after, cause },
        Pushback::Never | Pushback::Nonsense => Verdict::Stop,
    };
    let bad_header = (pushback == Pushback::Nonsense).then_some(PUSHBACK);
    Some(Judgement {
        verdict,
        bad_header,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushback {
    Silent,
    After(Duration),
    Never,
    Nonsense,
}

impl Pushback {
    fn of(fields: &HeaderMap) -> Self {
        let mut values = fields.get_all(PUSHBACK).iter();
        let (Some(value), second) = (values.next(), values.next()) else {
            return Self::Silent;
        };
        let millis = value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<i64>().ok());
        match millis.filter(|_| second.is_none()) {
            None => Self::Nonsense,
            Some(millis) => u64::try_from(millis)
                .map_or(Self::Never, |ms| Self::After(Duration::from_millis(ms))),
        }
    }
}

/// `DEADLINE_EXCEEDED`, made here.
pub(super) fn late<B: From<Bytes>>() -> Response<B> {
    let mut response = Response::new(Bytes::new().into());
    response.extensions_mut().insert(LocalReply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from_static(DEADLINE_EXCEEDED));
    let message = HeaderValue::from_static("no answer within the time of an attempt");
    headers.insert("grpc-message", message);
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    const NOW: Verdict = Verdict::now(Cause::Status);

    const fn after(millis: u64) -> Verdict {
        Verdict::Retry {
            after: Duration::from_millis(millis),
            cause: Cause::Status,
        }
    }

    #[test]
    fn the_status_and_the_push_back_decide() {
        let aborted = Codes::new([10]).unwrap();
        for (status, pushback, codes, verdict, bad) in [
            ("14", None, Codes::default(), NOW, None),
            ("14", Some("0"), Codes::default(), after(0), None),
            ("14", Some("1500"), Codes::default(), after(1_500), None),
            ("14", Some("-1"), Codes::default(), Verdict::Stop, None),
            (
                "14",
                Some("soon"),
                Codes::default(),
                Verdict::Stop,
                Some(PUSHBACK),
            ),
            (
                "14",
                Some(""),
                Codes::default(),
                Verdict::Stop,
                Some(PUSHBACK),
            ),
            (
                "14",
                Some("1e3"),
                Codes::default(),
                Verdict::Stop,
                Some(PUSHBACK),
            ),
            (
                "14",
                Some("99999999999999999999"),
                Codes::default(),
                Verdict::Stop,
                Some(PUSHBACK),
            ),
            ("8", None, Codes::default(), Verdict::Pass, None),
            ("8", Some("20"), Codes::default(), after(20), None),
            ("8", Some("-5"), Codes::default(), Verdict::Stop, None),
            ("10", None, Codes::default(), Verdict::Pass, None),
            ("10", Some("20"), Codes::default(), Verdict::Pass, None),
            ("10", None, aborted, NOW, None),
            ("14", None, aborted, Verdict::Pass, None),
            ("0", Some("20"), Codes::default(), Verdict::Pass, None),
            ("17", None, Codes::default(), Verdict::Pass, Some(STATUS)),
            ("-1", None, Codes::default(), Verdict::Pass, Some(STATUS)),
            (
                "unavailable",
                None,
                Codes::default(),
                Verdict::Pass,
                Some(STATUS),
            ),
        ] {
            let mut pairs = vec![(STATUS, status)];
            pairs.extend(pushback.map(|value| (PUSHBACK, value)));
            let judged = judge_status(&fields(&pairs), codes).unwrap();
            assert_eq!(judged.verdict, verdict, "{pairs:?} {codes:?}");
            assert_eq!(judged.bad_header, bad, "{pairs:?} {codes:?}");
        }
        assert_eq!(judge_status(&HeaderMap::new(), Codes::default()), None);
    }

    #[test]
    fn two_push_backs_are_none_to_rely_on() {
        let fields = fields(&[(STATUS, "14"), (PUSHBACK, "1"), (PUSHBACK, "2")]);
        let judged = judge_status(&fields, Codes::default()).unwrap();
        assert_eq!(judged.verdict, Verdict::Stop);
        assert_eq!(judged.bad_header, Some(PUSHBACK));
    }

    #[test]
    fn what_does_not_speak_grpc_is_read_as_http() {
        for (status, expected) in [
            (200, Verdict::Pass),
            (404, Verdict::Pass),
            (503, after(2_000)),
        ] {
            let response = Response::builder()
                .status(status)
                .header("retry-after", "2");
            let judged = judge_head(&response.body(()).unwrap(), Codes::default());
            assert_eq!(judged.verdict, expected, "{status}");
        }
    }

    #[test]
    fn only_errors_can_be_chosen() {
        for code in [0, -1, 17, i32::MAX] {
            let refused = Codes::new([14, code]).unwrap_err().to_string();
            let says = format!(
                "retry.codes is {code}: must be the number of a status that is an error, 1 to 16"
            );
            assert_eq!(refused, says);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_fields_say_there_is_a_verdict(status in "[ -~]{0,20}", pushback in "[ -~]{0,20}") {
            let fields = fields(&[(STATUS, &status), (PUSHBACK, &pushback)]);
            prop_assert!(judge_status(&fields, Codes::default()).is_some());
        }
    }
}
