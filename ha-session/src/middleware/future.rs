use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use pin_project_lite::pin_project;

use crate::error::SessionError;
use crate::middleware::answer::{self, Problem};
use crate::session::{Effects, Session};

pin_project! {
    /// The answer of a [`SessionService`](crate::SessionService): the handler's once its session is committed, a
    /// problem document if that failed.
    ///
    /// Dropped while it commits, the commit is stored as a whole or not at all.
    pub struct ResponseFuture<F, B> {
        #[pin]
        handler: F,
        session: Session,
        // Made only when there is something to commit, so that other requests pay for no allocation.
        commit: Option<Finishing<B>>,
    }
}

struct Finishing<B> {
    response: Option<Response<B>>,
    commit: BoxFuture<'static, Result<Effects, SessionError>>,
}

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn new(handler: F, session: Session) -> Self {
        Self {
            handler,
            session,
            commit: None,
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("session", &self.session)
            .field("committing", &self.commit.is_some())
            .finish_non_exhaustive()
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: From<Bytes>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let finishing = match this.commit {
            Some(finishing) => finishing,
            None => {
                let response = ready!(this.handler.as_mut().poll(cx))?;
                if this.session.is_untouched() {
                    return Poll::Ready(Ok(response));
                }
                let session = this.session.clone();
                this.commit.insert(Finishing {
                    response: Some(response),
                    commit: Box::pin(async move { session.finish().await }),
                })
            }
        };
        let result = ready!(finishing.commit.as_mut().poll(cx));
        let Some(response) = finishing.response.take() else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(match result {
            Ok(effects) => answer::complete(response, effects),
            Err(error) => Problem::of(&error, this.session.retry_after())
                .into_response()
                .map(B::from),
        }))
    }
}
