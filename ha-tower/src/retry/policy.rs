use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper_util::client::legacy;

use super::grpc::{self, Codes};
use super::status::judge_response;
use super::{MARKER, Override};
use crate::body::ReplayError;
use crate::breaker;
use crate::problem::{LocalReply, Problem};
use crate::upstream;

/// A head with more fields is sent once: a copy of it costs more than it can save.
const MOST_FIELDS: usize = 256;

/// What decides whether requests and their outcomes are fit for another attempt.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) protocol: Protocol,
    pub(super) idempotency_key: bool,
    pub(super) idempotent: Option<Matcher>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc(Codes),
}

/// Says of a request's head that it may be sent again.
#[derive(Clone)]
pub(super) struct Matcher(Arc<dyn Fn(&Parts) -> bool + Send + Sync>);

impl Matcher {
    pub(super) fn new(matches: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(matches))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

/// What a request allows, known before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// Never again: the connection itself is the request.
    Once,
    /// Only if it provably never reached the application.
    WhenUnsent,
    /// After any failure.
    Idempotent,
}

impl Rules {
    pub(super) fn safety(&self, head: &Parts, overriding: Override) -> Safety {
        let headers = &head.headers;
        let grpc = self.protocol != Protocol::Http;
        if head.method == Method::CONNECT || headers.contains_key(http::header::UPGRADE) {
            return Safety::Once;
        }
        if headers.contains_key(MARKER) || grpc && headers.contains_key(grpc::PREVIOUS_ATTEMPTS) {
            return Safety::WhenUnsent;
        }
        let idempotent = overriding.declared_idempotent().unwrap_or_else(|| {
            !grpc && head.method.is_idempotent()
                || self.idempotency_key && names_one_key(headers)
                || self.idempotent.as_ref().is_some_and(|it| it.0(head))
        });
        if idempotent {
            Safety::Idempotent
        } else {
            Safety::WhenUnsent
        }
    }

    pub(super) fn judge<B>(&self, response: &Response<B>, safety: Safety) -> Judgement {
        if safety != Safety::Idempotent || response.extensions().get::<LocalReply>().is_some() {
            return Judgement::from(Verdict::Pass);
        }
        match self.protocol {
            Protocol::Http => judge_response(response),
            Protocol::Grpc(codes) => grpc::judge_head(response, codes),
        }
    }

    /// Of a response that was held until its end.
    pub(super) fn judge_end(&self, trailers: Option<&HeaderMap>) -> Judgement {
        match (self.protocol, trailers) {
            (Protocol::Grpc(codes), Some(trailers)) => {
                grpc::judge_status(trailers, codes).unwrap_or(Judgement::from(Verdict::Pass))
            }
            _ => Judgement::from(Verdict::Pass),
        }
    }

    /// The answer to an attempt that took too long.
    pub(super) fn late<B: From<bytes::Bytes>>(&self) -> Response<B> {
        match self.protocol {
            Protocol::Http => Problem::new(StatusCode::GATEWAY_TIMEOUT)
                .detail("no answer within the time of an attempt")
                .into_response(),
            Protocol::Grpc(_) => grpc::late(),
        }
    }
}

/// Whether a head is small enough to be kept.
pub(super) fn is_copied(headers: &HeaderMap) -> bool {
    headers.len() <= MOST_FIELDS
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
    /// It failed, and whoever answered asked not to be asked again.
    Stop,
    /// Again, not before `after` plus the backoff.
    Retry {
        after: Duration,
        cause: Cause,
    },
}

impl Verdict {
    pub(super) const fn now(cause: Cause) -> Self {
        Self::Retry {
            after: Duration::ZERO,
            cause,
        }
    }
}

/// Why an attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It provably never reached the application.
    Unsent,
    /// The exchange failed.
    Error,
    /// The answer says so.
    Status,
    /// The answer broke off or stalled while it was held.
    Broken,
    /// It took longer than an attempt may.
    Timeout,
}

/// A verdict, and the header that made no sense on the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    pub(super) bad_header: Option<&'static str>,
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            bad_header: None,
        }
    }
}

pub(super) fn judge_error(error: &(dyn Error + 'static), safety: Safety) -> Verdict {
    if crate::limit::is_shed(error) {
        return Verdict::Pass;
    }
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
        } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // hyper gives a request back like this when the connection ended before any of it was written.
            unsent |= error.is_canceled();
        } else if error
            .downcast_ref::<breaker::Error>()
            .is_some_and(breaker::Error::is_open)
        {
            // It would be as open for the next attempt.
            return Verdict::Pass;
        } else if let Some(ReplayError::Body(_)) = error.downcast_ref() {
            // The caller's own stream broke: no endpoint can help.
            return Verdict::Pass;
        }
        unsent |= was_refused(error);
        cause = error.source();
    }
    match safety {
        Safety::Idempotent | Safety::WhenUnsent if unsent => Verdict::now(Cause::Unsent),
        Safety::Idempotent => Verdict::now(Cause::Error),
        Safety::WhenUnsent | Safety::Once => Verdict::Pass,
    }
}

/// Whether the other side said of an HTTP/2 stream that it has not looked at it.
#[cfg(feature = "http2")]
fn was_refused(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| {
        error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

#[cfg(not(feature = "http2"))]
fn was_refused(_: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn rules(protocol: Protocol, idempotency_key: bool) -> Rules {
        Rules {
            protocol,
            idempotency_key,
            idempotent: Some(Matcher::new(|head| head.uri.path() == "/search")),
        }
    }

    fn head(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn methods_and_headers_decide_what_is_safe() {
        let key = [("idempotency-key", "k")];
        let (empty, two) = ([("idempotency-key", " ")], [key[0], key[0]]);
        let upgrade = [("upgrade", "websocket")];
        let marked = [("x-retry-attempt", "1")];
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
            (Method::GET, &marked, false, Safety::WhenUnsent),
            (Method::GET, &upgrade, false, Safety::Once),
        ] {
            let head = head(method, "/x", headers);
            let safety = rules(Protocol::Http, honour).safety(&head, Override::new());
            assert_eq!(safety, expected, "{head:?} {honour}");
        }
    }

    #[test]
    fn a_matcher_and_an_override_declare_and_the_override_has_the_last_word() {
        let declared = |idempotent| Override::new().idempotent(idempotent);
        for (method, path, overriding, expected) in [
            (Method::POST, "/x", Override::new(), Safety::WhenUnsent),
            (Method::POST, "/search", Override::new(), Safety::Idempotent),
            (Method::POST, "/search", declared(false), Safety::WhenUnsent),
            (Method::POST, "/x", declared(true), Safety::Idempotent),
            (Method::GET, "/x", declared(false), Safety::WhenUnsent),
            (Method::CONNECT, "/x", declared(true), Safety::Once),
        ] {
            let head = head(method, path, &[]);
            let safety = rules(Protocol::Http, false).safety(&head, overriding);
            assert_eq!(safety, expected, "{head:?} {overriding:?}");
        }
    }

    #[test]
    fn a_call_of_grpc_is_safe_by_declaration_alone() {
        let previous = [(grpc::PREVIOUS_ATTEMPTS, "1")];
        for (method, path, headers, expected) in [
            (Method::POST, "/x", &[][..], Safety::WhenUnsent),
            (Method::GET, "/x", &[], Safety::WhenUnsent),
            (Method::POST, "/search", &[], Safety::Idempotent),
            (Method::POST, "/search", &previous, Safety::WhenUnsent),
        ] {
            let head = head(method, path, headers);
            let rules = rules(Protocol::Grpc(Codes::default()), false);
            assert_eq!(rules.safety(&head, Override::new()), expected, "{head:?}");
        }
    }

    #[test]
    fn what_failed_before_it_was_sent_is_fit_for_all_and_what_was_refused_here_for_none() {
        let (open, service) = (
            breaker::Error::Open { retry_in: None },
            breaker::Error::Service("broke".into()),
        );
        let full = upstream::Error::Full {
            endpoint: "app-1".into(),
        };
        let unavailable = upstream::Error::Unavailable {
            upstream: "shop".into(),
            known: 0,
        };
        let unsent = Verdict::now(Cause::Unsent);
        let failed = Verdict::now(Cause::Error);
        for (error, of_post, of_get) in [
            (&full as &dyn Error, unsent, unsent),
            (&unavailable, Verdict::Pass, Verdict::Pass),
            (&open, Verdict::Pass, Verdict::Pass),
            (&service, Verdict::Pass, failed),
            (&ReplayError::Revoked, Verdict::Pass, failed),
            (
                &ReplayError::Body("gone".into()),
                Verdict::Pass,
                Verdict::Pass,
            ),
        ] {
            let judged = [Safety::Once, Safety::WhenUnsent, Safety::Idempotent]
                .map(|safety| judge_error(error, safety));
            assert_eq!(judged, [Verdict::Pass, of_post, of_get], "{error:?}");
        }
    }

    #[test]
    fn answers_made_in_this_process_never_ask_for_more() {
        for protocol in [Protocol::Http, Protocol::Grpc(Codes::default())] {
            let rules = rules(protocol, false);
            let mut response: Response<bytes::Bytes> = rules.late();
            let local = rules.judge(&response, Safety::Idempotent).verdict;
            assert_eq!(local, Verdict::Pass, "{protocol:?}");
            response.extensions_mut().remove::<LocalReply>();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().remove("grpc-status");
            let remote = rules.judge(&response, Safety::Idempotent).verdict;
            assert_eq!(remote, Verdict::now(Cause::Status), "{protocol:?}");
            let unsafe_one = rules.judge(&response, Safety::WhenUnsent).verdict;
            assert_eq!(unsafe_one, Verdict::Pass, "{protocol:?}");
        }
    }
}
