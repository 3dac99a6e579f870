use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::protocol::grpc;
use super::{Held, Outcome};

pin_project_lite::pin_project! {
    /// A response body that keeps its request's place until it has ended, failed or been dropped.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        inner: Option<B>,
        local: Option<Bytes>,
        held: Option<Held>,
    }
}

impl<B: http_body::Body> Body<B> {
    pub(super) fn new(inner: B, held: Held) -> Self {
        // Nobody polls a body that says at once that it has ended.
        let held = (!inner.is_end_stream()).then_some(held);
        Self {
            inner: Some(inner),
            local: None,
            held,
        }
    }

    pub(super) fn local(bytes: Bytes) -> Self {
        Self {
            inner: None,
            local: Some(bytes),
            held: None,
        }
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(this.local.take().map(|bytes| Ok(Frame::data(bytes))));
        };
        let frame = ready!(inner.as_mut().poll_frame(cx));
        if let Some(held) = this.held {
            let outcome = match &frame {
                Some(Ok(frame)) => frame.trailers_ref().and_then(grpc),
                // The answer began: what broke it off need not be load.
                Some(Err(_)) => Some(Outcome::Ignored),
                None => Some(Outcome::Success),
            };
            held.settle(outcome.unwrap_or(Outcome::AtEnd));
        }
        let goes_on = matches!(&frame, Some(Ok(_))) && !inner.is_end_stream();
        if !goes_on {
            *this.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.local.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(self.local.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
