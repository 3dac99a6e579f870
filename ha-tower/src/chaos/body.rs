use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::BoxError;

/// The connection was cut on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection cut by fault injection")]
#[non_exhaustive]
pub struct Cut;

pin_project! {
    /// The body of a response into which a fault may have been injected.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        Own { #[pin] body: B },
        Empty,
        Cut { said: bool },
    }
}

impl<B> Body<B> {
    pub(super) fn own(body: B) -> Self {
        Self {
            kind: Kind::Own { body },
        }
    }

    pub(super) fn empty() -> Self {
        Self { kind: Kind::Empty }
    }

    pub(super) fn cut() -> Self {
        Self {
            kind: Kind::Cut { said: false },
        }
    }
}

impl<B> http_body::Body for Body<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Own { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Empty => Poll::Ready(None),
            KindProj::Cut { said } if *said => Poll::Ready(None),
            KindProj::Cut { said } => {
                *said = true;
                Poll::Ready(Some(Err(Cut.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { body } => body.is_end_stream(),
            Kind::Empty => true,
            Kind::Cut { said } => *said,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { body } => body.size_hint(),
            Kind::Empty => SizeHint::with_exact(0),
            // A length would make an empty answer look whole.
            Kind::Cut { .. } => SizeHint::new(),
        }
    }
}
