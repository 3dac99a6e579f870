use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use super::body::ResponseBody;

/// A keyed request costs several statements, so the box does not show; requests without a key pay for none.
type Keyed<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

pin_project! {
    /// Response of [`IdempotencyService`](super::IdempotencyService).
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        kind: Kind<F, R, E>,
    }
}

pin_project! {
    #[project = KindProject]
    enum Kind<F, R, E> {
        Untouched { #[pin] future: F },
        Keyed { future: Keyed<R, E> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(super) fn untouched(future: F) -> Self {
        Self {
            kind: Kind::Untouched { future },
        }
    }

    pub(super) fn keyed(future: Keyed<R, E>) -> Self {
        Self {
            kind: Kind::Keyed { future },
        }
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Untouched { .. } => "untouched",
            Kind::Keyed { .. } => "keyed",
        };
        f.debug_struct("ResponseFuture")
            .field("kind", &kind)
            .finish()
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProject::Untouched { future } => future
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::untouched)),
            KindProject::Keyed { future } => future.as_mut().poll(cx),
        }
    }
}
