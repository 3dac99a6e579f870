use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};

use super::attempt::RequestBody;
use super::connect::Received;
use super::{Body, Error};
use crate::balance::{self, Grpc, Http, InFlight, Protocol, Verdict, of_http_request};

/// HTTP as [`balance::Http`] reads it, gRPC as [`balance::Grpc`] does, with what the errors of an attempt tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamHttp;

type Ask = Request<RequestBody>;
type Answer = Response<Received>;

impl Protocol<Ask, Answer, Error> for UpstreamHttp {
    type Response = Response<Body>;

    of_http_request!(RequestBody);

    fn classify(&self, result: Result<&Answer, &Error>) -> Verdict {
        match result {
            Ok(response) if is_grpc(response.headers()) => {
                Protocol::<Ask, Answer, Error>::classify(&Grpc, result)
            }
            Ok(response) => balance::by_status(response.status(), response.headers()),
            Err(Error::Timeout { sent: true, .. }) => Verdict::failure().unanswered(),
            // The limits here say nothing about the endpoint but that it is slow enough for a queue.
            Err(Error::Timeout { sent: false, .. }) => Verdict::neutral().unanswered(),
            // A keep-alive connection that was closed while idle is everyday life, and a bad request is the caller's.
            Err(Error::Unsent { .. } | Error::Full { .. } | Error::Request { .. }) => {
                Verdict::neutral()
            }
            Err(Error::Connect { .. }) => Verdict::connect_failure(),
            Err(_) => Verdict::failure(),
        }
    }

    fn finish(&self, response: Answer, in_flight: InFlight) -> Response<Body> {
        if is_grpc(response.headers()) {
            Protocol::<Ask, Answer, Error>::finish(&Grpc, response, in_flight).map(Body::from)
        } else {
            Protocol::<Ask, Answer, Error>::finish(&Http, response, in_flight).map(Body::from)
        }
    }
}

/// `application/grpc`, with a suffix or not. What is merely called alike (gRPC-Web) has its status elsewhere.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_grpc_by_its_type_alone() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            let headers = [(CONTENT_TYPE, kind.parse().unwrap())];
            assert_eq!(is_grpc(&headers.into_iter().collect()), grpc, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
