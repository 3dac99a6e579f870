use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::layer::Shared;
use crate::postgres::{Causal, Token};

/// Waiting for the positions of given-back connections is the rare case, so only it pays for a box.
type Settling = Pin<Box<dyn Future<Output = Option<Token>> + Send>>;

pin_project! {
    /// Response of [`CausalService`](super::CausalService).
    pub struct ResponseFuture<F, R> {
        #[pin]
        inner: F,
        settling: Option<(Response<R>, Settling)>,
        causal: Causal,
        presented: Option<Token>,
        refused: bool,
        shared: Arc<Shared>,
    }
}

impl<F, R> ResponseFuture<F, R> {
    pub(super) fn new(
        inner: F,
        causal: Causal,
        presented: Option<Token>,
        refused: bool,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            inner,
            settling: None,
            causal,
            presented,
            refused,
            shared,
        }
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("causal", &self.causal)
            .field("settling", &self.settling.is_some())
            .finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.settling.is_none() {
            let response = match ready!(this.inner.as_mut().poll(cx)) {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let causal = this.causal.clone();
            let settle = Box::pin(async move { causal.settle().await });
            *this.settling = Some((response, settle));
        }
        if let Some((_, settle)) = this.settling.as_mut() {
            let token = ready!(settle.as_mut().poll(cx));
            if let Some((mut response, _)) = this.settling.take() {
                match token {
                    Some(token) if *this.presented != Some(token) => {
                        this.shared.write(token, response.headers_mut());
                    }
                    None if *this.refused => this.shared.clear(response.headers_mut()),
                    _ => {}
                }
                return Poll::Ready(Ok(response));
            }
        }
        // Polled again after completion.
        Poll::Pending
    }
}
