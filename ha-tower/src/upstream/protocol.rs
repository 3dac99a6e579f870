use http::{Request, Response};

use super::attempt::RequestBody;
use super::connect::Received;
use super::{Body, Error};
use crate::balance::{self, HashKey, InFlight, Protocol, Verdict};
use crate::tried::Tried;

/// HTTP as [`balance::Http`] reads it, with what the errors of an attempt tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamHttp;

impl Protocol<Request<RequestBody>, Response<Received>, Error> for UpstreamHttp {
    type Response = Response<Body>;

    fn tried<'a>(&self, request: &'a Request<RequestBody>) -> Option<&'a Tried> {
        request.extensions().get()
    }

    fn hash(&self, request: &Request<RequestBody>, key: &HashKey) -> Option<u64> {
        key.hash(request)
    }

    fn classify(&self, result: Result<&Response<Received>, &Error>) -> Verdict {
        match result {
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

    fn finish(&self, response: Response<Received>, in_flight: InFlight) -> Response<Body> {
        response.map(|body| Body::new(body, in_flight))
    }
}
