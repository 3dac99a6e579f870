use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use pin_project_lite::pin_project;

use crate::error::SessionError;
use crate::middleware::answer::{self, Problem};
use crate::session::{Effects, OnServerError, Session};

pin_project! {
    /// The answer of a [`SessionService`](crate::SessionService): the handler's once its session is committed, a
    /// problem document if that failed.
    ///
    /// Dropped while it commits, the commit is stored as a whole or not at all. When the handler panics its changes are dropped
    /// and its sign-out, if it asked for one, is carried out; then the panic goes on.
    pub struct ResponseFuture<F, B> {
        #[pin]
        handler: F,
        session: Session,
        // Made only when there is something to commit, so that other requests pay for no allocation.
        commit: Option<Finishing<B>>,
    }
}

struct Finishing<B> {
    handled: Option<Handled<B>>,
    commit: BoxFuture<'static, Result<Effects, SessionError>>,
}

/// How the handler ended.
enum Handled<B> {
    Answer(Response<B>),
    Panic(Box<dyn Any + Send>),
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
                let handler = this.handler.as_mut();
                // Nothing of the handler is looked at after a panic, and the session's state is whole after every step.
                let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handler.poll(cx)));
                let handled = match polled {
                    Ok(answer) => {
                        let response = ready!(answer)?;
                        let failed = response.status().is_server_error();
                        if failed && this.session.on_server_error() == OnServerError::Discard {
                            this.session.discard();
                        }
                        if this.session.is_untouched() {
                            this.session.answered();
                            return Poll::Ready(Ok(response));
                        }
                        Handled::Answer(response)
                    }
                    Err(panic) => {
                        this.session.discard();
                        if !this.session.is_ending() {
                            std::panic::resume_unwind(panic);
                        }
                        Handled::Panic(panic)
                    }
                };
                let session = this.session.clone();
                this.commit.insert(Finishing {
                    handled: Some(handled),
                    commit: Box::pin(async move { session.finish().await }),
                })
            }
        };
        let result = ready!(finishing.commit.as_mut().poll(cx));
        this.session.answered();
        let response = match finishing.handled.take() {
            Some(Handled::Answer(response)) => response,
            Some(Handled::Panic(panic)) => std::panic::resume_unwind(panic),
            None => return Poll::Pending,
        };
        Poll::Ready(Ok(match result {
            Ok(effects) => answer::complete(response, effects),
            Err(error) => Problem::of(&error, this.session.retry_after())
                .into_response()
                .map(B::from),
        }))
    }
}
