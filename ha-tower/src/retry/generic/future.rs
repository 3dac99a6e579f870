use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::layer::Shared;
use super::policy::{Policy, Verdict};
use crate::retry::policy::Cause;
use crate::retry::terms::Granted;

/// What the next attempt is made from, and by whom.
pub(super) struct Spare<S, P, Req> {
    inner: S,
    request: Req,
    attempts: u32,
    shared: Arc<Shared<P>>,
}

impl<S, P, Req> Spare<S, P, Req> {
    pub(super) const fn new(inner: S, request: Req, shared: Arc<Shared<P>>) -> Self {
        Self {
            inner,
            request,
            attempts: 1,
            shared,
        }
    }
}

impl<S, P, Req> Spare<S, P, Req>
where
    S: Service<Req>,
    P: Policy<Req, S::Response, S::Error>,
{
    fn ask(&self, outcome: Result<&S::Response, &S::Error>) -> Option<(Duration, Granted)> {
        let Shared { terms, policy, .. } = &*self.shared;
        let cause = match outcome {
            Ok(_) => Cause::Status,
            Err(_) => Cause::Error,
        };
        let after = match policy.classify(&self.request, outcome) {
            Verdict::Pass => return None,
            Verdict::Retry => Duration::ZERO,
            Verdict::RetryAfter(after) => after,
        };
        terms
            .ask(self.attempts, cause, after, policy.deadline(&self.request))
            .map_err(|reason| terms.give_up(reason))
            .ok()
    }

    /// Makes the next attempt, and gives back what the one after it can be made from.
    fn call(mut self) -> (S::Future, Option<Self>) {
        let policy = &self.shared.policy;
        self.attempts += 1;
        let more = self.attempts < self.shared.attempts;
        let copy = more.then(|| policy.copy(&self.request)).flatten();
        policy.prepare(&mut self.request, self.attempts);
        let attempt = self.inner.call(self.request);
        let spare = copy.map(|request| Self {
            inner: self.inner,
            request,
            attempts: self.attempts,
            shared: self.shared,
        });
        (attempt, spare)
    }
}

pin_project! {
    /// The response of [`GenericRetry`](super::GenericRetry).
    pub struct ResponseFuture<S, P, Req>
    where
        S: Service<Req>,
    {
        // `None` when there will be no other attempt.
        spare: Option<Spare<S, P, Req>>,
        #[pin]
        state: State<S::Future, S::Response, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Res, E> {
        Attempt { #[pin] attempt: F },
        // Boxed, so that a request that does not fail does not carry their size along.
        Wait { next: Option<Box<Next<Res, E>>>, sleep: Pin<Box<Sleep>> },
        Ready { next: Option<Box<Next<Res, E>>> },
        Done,
    }
}

/// A retry that the budget granted, and what is passed on if it cannot be sent.
struct Next<Res, E> {
    last: Result<Res, E>,
    granted: Granted,
}

impl<S: Service<Req>, P, Req> ResponseFuture<S, P, Req> {
    pub(super) const fn new(attempt: S::Future, spare: Option<Spare<S, P, Req>>) -> Self {
        Self {
            spare,
            state: State::Attempt { attempt },
        }
    }
}

impl<S, P, Req> Future for ResponseFuture<S, P, Req>
where
    S: Service<Req>,
    P: Policy<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { attempt } => {
                    let last = ready!(attempt.poll(cx));
                    let asked = this
                        .spare
                        .as_ref()
                        .and_then(|spare| spare.ask(last.as_ref()));
                    let Some((wait, granted)) = asked else {
                        this.state.set(State::Done);
                        return Poll::Ready(last);
                    };
                    let next = Some(Box::new(Next { last, granted }));
                    let sleep = Box::pin(sleep(wait));
                    this.state.set(State::Wait { next, sleep });
                }
                StateProj::Wait { next, sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let next = next.take();
                    this.state.set(State::Ready { next });
                }
                StateProj::Ready { next } => {
                    let ready = match this.spare.as_mut() {
                        Some(spare) => ready!(spare.inner.poll_ready(cx)),
                        None => Ok(()),
                    };
                    let (Some(next), Some(spare)) = (next.take(), this.spare.take()) else {
                        unreachable!("kept until here")
                    };
                    let Next { last, granted } = *next;
                    if ready.is_err() {
                        // The service is gone: what it said before says more.
                        this.state.set(State::Done);
                        return Poll::Ready(last);
                    }
                    granted.sent(&spare.shared.terms);
                    let (attempt, spare) = spare.call();
                    *this.spare = spare;
                    this.state.set(State::Attempt { attempt });
                }
                StateProj::Done => panic!("response future polled after completion"),
            }
        }
    }
}

impl<S: Service<Req>, P, Req> fmt::Debug for ResponseFuture<S, P, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.spare.as_ref().map(|spare| spare.attempts);
        f.debug_struct("ResponseFuture")
            .field("attempts", &attempts)
            .finish_non_exhaustive()
    }
}
