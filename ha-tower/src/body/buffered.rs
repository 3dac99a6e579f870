use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A response body of which some bytes, or all of them, are already here.
    ///
    /// It yields those first and then what is left: the rest of the stream, the trailers, or the error at which the
    /// stream broke. Errors are those of the inner body; a body made from bytes has none.
    pub struct Buffered<B: Body> {
        known: VecDeque<Bytes>,
        #[pin]
        rest: Rest<B>,
    }
}

pin_project! {
    #[project = RestProj]
    enum Rest<B: Body> {
        Stream { #[pin] body: B },
        Trailers { trailers: Option<HeaderMap> },
        Broken { error: Option<B::Error> },
    }
}

impl<B: Body> Buffered<B> {
    /// Passes `body` through untouched.
    pub fn stream(body: B) -> Self {
        Self {
            known: VecDeque::new(),
            rest: Rest::Stream { body },
        }
    }

    pub(crate) fn resumed(known: VecDeque<Bytes>, body: B) -> Self {
        Self {
            known,
            rest: Rest::Stream { body },
        }
    }

    pub(crate) fn complete(known: VecDeque<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self {
            known,
            rest: Rest::Trailers { trailers },
        }
    }

    pub(crate) fn broken(known: VecDeque<Bytes>, error: B::Error) -> Self {
        Self {
            known,
            rest: Rest::Broken { error: Some(error) },
        }
    }
}

impl<B: Body> From<Bytes> for Buffered<B> {
    fn from(bytes: Bytes) -> Self {
        let known = if bytes.is_empty() {
            VecDeque::new()
        } else {
            VecDeque::from([bytes])
        };
        Self::complete(known, None)
    }
}

impl<B: Body<Data = Bytes>> Body for Buffered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(chunk) = this.known.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match this.rest.project() {
            RestProj::Stream { body } => body.poll_frame(cx),
            RestProj::Trailers { trailers } => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            RestProj::Broken { error } => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.known.is_empty()
            && match &self.rest {
                Rest::Stream { body } => body.is_end_stream(),
                Rest::Trailers { trailers } => trailers.is_none(),
                Rest::Broken { error } => error.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let known = self
            .known
            .iter()
            .map(|chunk| chunk.len() as u64)
            .sum::<u64>();
        let rest = match &self.rest {
            Rest::Stream { body } => body.size_hint(),
            Rest::Trailers { .. } => SizeHint::with_exact(0),
            // The length is not known: announcing what is here would make a broken answer look complete.
            Rest::Broken { .. } => SizeHint::new(),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(known));
        }
        hint.set_lower(rest.lower().saturating_add(known));
        hint
    }
}

impl<B: Body> fmt::Debug for Buffered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match self.rest {
            Rest::Stream { .. } => "stream",
            Rest::Trailers { .. } => "end",
            Rest::Broken { .. } => "broken",
        };
        f.debug_struct("Buffered")
            .field("known", &self.known)
            .field("rest", &rest)
            .finish()
    }
}
