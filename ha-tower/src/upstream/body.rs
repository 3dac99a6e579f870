use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::connect::Received;
use crate::balance::{self, InFlight};

/// The body of a response from an endpoint. The request counts as in flight there until this has ended or was dropped.
#[derive(Debug)]
pub struct Body(balance::Body<Received>);

impl Body {
    pub(super) fn new(inner: Received, in_flight: InFlight) -> Self {
        Self(balance::Body::new(inner, in_flight))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
