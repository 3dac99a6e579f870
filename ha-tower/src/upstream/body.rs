use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::connect::Received;
use crate::balance::{self, GrpcBody};

/// The body of a response from an endpoint. The request counts as in flight there until this has ended or was dropped.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Http(balance::Body<Received>),
    /// How the request counts is decided by the trailers.
    Grpc(GrpcBody<Received>),
}

impl From<balance::Body<Received>> for Body {
    fn from(body: balance::Body<Received>) -> Self {
        Self(Kind::Http(body))
    }
}

impl From<GrpcBody<Received>> for Body {
    fn from(body: GrpcBody<Received>) -> Self {
        Self(Kind::Grpc(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Kind::Http(body) => Pin::new(body).poll_frame(cx),
            Kind::Grpc(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http(body) => body.is_end_stream(),
            Kind::Grpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http(body) => body.size_hint(),
            Kind::Grpc(body) => body.size_hint(),
        }
    }
}
