use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::header::is_grpc;
use crate::problem::{LocalReply, Problem};

/// gRPC's DEADLINE_EXCEEDED.
const DEADLINE_EXCEEDED: HeaderValue = HeaderValue::from_static("4");

/// In which form a caller is told that the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Http,
    Grpc,
}

impl Form {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Self::Grpc
        } else {
            Self::Http
        }
    }

    pub(super) fn answer<B: From<Bytes>>(self, detail: &'static str) -> Response<B> {
        match self {
            Self::Http => Problem::new(StatusCode::GATEWAY_TIMEOUT)
                .detail(detail)
                .into_response(),
            Self::Grpc => trailers_only(detail),
        }
    }
}

/// Head and trailers in one: an HTTP 200 without a body whose head carries the status.
fn trailers_only<B: From<Bytes>>(message: &'static str) -> Response<B> {
    let mut response = Response::new(Bytes::new().into());
    response.extensions_mut().insert(LocalReply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", DEADLINE_EXCEEDED);
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}
