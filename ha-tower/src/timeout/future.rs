use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};

use super::deadline::Deadline;
use super::metrics::Side;
use super::reply::Form;
use crate::body::Buffered;

pin_project! {
    /// The response of [`Timeout`](super::Timeout) and of [`ServerDeadline`](super::ServerDeadline).
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the call inside; nothing is left behind.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        form: Form,
        side: Side,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Called { #[pin] response: F, #[pin] sleep: Sleep },
        Refused,
        Done,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn called(response: F, deadline: Deadline, form: Form, side: Side) -> Self {
        let sleep = sleep_until(deadline.0);
        Self {
            state: State::Called { response, sleep },
            form,
            side,
        }
    }

    pub(super) const fn refused(form: Form, side: Side) -> Self {
        Self {
            state: State::Refused,
            form,
            side,
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<Buffered<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let output = match this.state.as_mut().project() {
            StateProj::Called { response, sleep } => match response.poll(cx) {
                Poll::Ready(result) => result.map(|response| response.map(Buffered::stream)),
                Poll::Pending => {
                    ready!(sleep.poll(cx));
                    this.side.expired();
                    Ok(this.form.answer("no answer within the deadline"))
                }
            },
            StateProj::Refused => Ok(this.form.answer("too little time is left for an answer")),
            StateProj::Done => panic!("response future polled after completion"),
        };
        // What still runs inside ends now, and not when somebody gets round to dropping this.
        this.state.set(State::Done);
        Poll::Ready(output)
    }
}
