use http::{Request, Response};
use hyper::body::Incoming;

use super::attempt::RequestBody;
use super::{Body, Error};
use crate::balance::{self, InFlight, Protocol, Verdict};
use crate::tried::Tried;

/// HTTP as [`balance::Http`] reads it, with what the errors of an attempt tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamHttp;

impl Protocol<Request<RequestBody>, Response<Incoming>, Error> for UpstreamHttp {
    type Response = Response<Body>;

    fn tried<'a>(&self, request: &'a Request<RequestBody>) -> Option<&'a Tried> {
        request.extensions().get()
    }

    fn classify(&self, result: Result<&Response<Incoming>, &Error>) -> Verdict {
        match result {
            Ok(response) => balance::by_status(response.status(), response.headers()),
            Err(Error::Timeout { .. }) => Verdict::failure().unanswered(),
            // A keep-alive connection that was closed while idle is everyday life, and a bad request is the caller's.
            Err(Error::Unsent { .. } | Error::Request { .. }) => Verdict::neutral(),
            Err(_) => Verdict::failure(),
        }
    }

    fn finish(&self, response: Response<Incoming>, in_flight: InFlight) -> Response<Body> {
        response.map(|body| Body::new(body, in_flight))
    }
}
