use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ha_core::breaker::Rejected;
use tower_service::Service;

use super::Classify;
use super::call::{Call, Ticket};
use super::handle::Shared;
use crate::clock;

/// A service and the breaker before it: what all forms of the breaker have in common.
#[derive(Debug)]
pub(super) struct Gate<S, C> {
    inner: S,
    shared: Arc<Shared>,
    classify: C,
    // Readiness was answered without the service, so it must not be called.
    skipped: bool,
}

impl<S: Clone, C: Clone> Clone for Gate<S, C> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.shared.clone(),
            self.classify.clone(),
        )
    }
}

impl<S, C> Gate<S, C> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, classify: C) -> Self {
        Self {
            inner,
            shared,
            classify,
            skipped: false,
        }
    }

    #[inline]
    pub(super) fn poll_ready<R>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<R>,
        C: Classify<S::Response, S::Error>,
    {
        let breaker = &self.shared.breaker;
        // An open breaker answers without the service, so that nobody waits for one that is never ready again.
        if !breaker.is_closed() && !breaker.would_admit(clock::now()) {
            self.skipped = true;
            return Poll::Ready(Ok(()));
        }
        let ready = ready!(self.inner.poll_ready(cx));
        self.skipped = false;
        if let Err(error) = &ready
            && let Ok(permit) = breaker.try_admit_with(clock::now)
        {
            let verdict = self.classify.classify(Err(error));
            Ticket::new(self.shared.clone(), permit).settle(&verdict);
        }
        Poll::Ready(ready)
    }

    #[inline]
    pub(super) fn call<R>(&mut self, request: R) -> Result<Call<S::Future, C>, Rejected>
    where
        S: Service<R>,
        C: Clone,
    {
        let shared = &self.shared;
        if std::mem::take(&mut self.skipped) {
            // It may have become half-open meanwhile, or closed, but the service was not asked whether it is ready.
            let retry_in = shared.breaker.open_for(clock::now());
            return Err(shared.refuse(Rejected { retry_in }));
        }
        let permit = shared
            .breaker
            .try_admit_with(clock::now)
            .map_err(|rejected| shared.refuse(rejected))?;
        // Before the call: what panics in there gives the permit back.
        let ticket = Ticket::new(shared.clone(), permit);
        let future = self.inner.call(request);
        Ok(Call::new(future, ticket, self.classify.clone()))
    }
}
