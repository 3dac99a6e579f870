use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ha_core::hedge::Sent;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::layer::{Granted, Shared};
use super::metrics;
use super::policy::{Classify, Copies, Split};
use crate::clock;

pin_project! {
    /// The response of [`Hedge`](super::Hedge).
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops all attempts under way; none is made later. A hedge that was granted and not sent goes back into the
    /// budget.
    pub struct ResponseFuture<S, I, T, C>
    where
        S: Service<I>,
    {
        #[pin]
        attempts: Attempts<S::Future>,
        #[pin]
        timer: Option<Sleep>,
        next: Next<I>,
        inner: S,
        template: Option<T>,
        classify: C,
        first: First,
        delay: Duration,
        deadline: Option<Instant>,
        hedges: u32,
        // What is passed on when no attempt succeeds.
        failed: Option<Failed<S::Response, S::Error>>,
    }
}

pin_project! {
    /// The first one and two hedges.
    #[project = AttemptsProj]
    struct Attempts<F> {
        #[pin]
        first: Option<F>,
        #[pin]
        second: Option<F>,
        #[pin]
        third: Option<F>,
    }
}

struct Failed<R, E> {
    result: Result<R, E>,
    attempt: u32,
}

/// What the next hedge waits for.
enum Next<I> {
    /// There will be none.
    Never,
    /// For its time.
    Timer,
    /// For the service.
    Ready { copy: I, granted: Granted },
}

/// Measures the first attempt.
struct First {
    shared: Arc<Shared>,
    // `None` when it is not measured, or has been.
    started: Option<Instant>,
}

impl First {
    fn answered(&mut self) {
        if let Some(started) = self.started.take() {
            let now = clock::now();
            let latency = now.saturating_duration_since(started);
            self.shared.hedge.record(latency, now);
        }
    }

    fn given_up(&mut self) {
        if let Some(started) = self.started.take() {
            let now = clock::now();
            let elapsed = now.saturating_duration_since(started);
            self.shared.hedge.outlasted(elapsed, now);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.given_up();
    }
}

impl<F> Attempts<F> {
    fn at(self: Pin<&mut Self>, attempt: u32) -> Pin<&mut Option<F>> {
        let this = self.project();
        match attempt {
            0 => this.first,
            1 => this.second,
            _ => this.third,
        }
    }

    fn clear(mut self: Pin<&mut Self>) {
        for attempt in 0..=ha_core::hedge::MOST_HEDGES {
            self.as_mut().at(attempt).set(None);
        }
    }
}

impl<F: Future> Attempts<F> {
    /// The next outcome, the oldest attempt's first. `Ready(None)` when none is under way.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(u32, F::Output)>> {
        let mut under_way = false;
        for attempt in 0..=ha_core::hedge::MOST_HEDGES {
            let mut slot = self.as_mut().at(attempt);
            let Some(future) = slot.as_mut().as_pin_mut() else {
                continue;
            };
            if let Poll::Ready(output) = future.poll(cx) {
                slot.set(None);
                return Poll::Ready(Some((attempt, output)));
            }
            under_way = true;
        }
        if under_way {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }
}

impl<S, I, T, C> ResponseFuture<S, I, T, C>
where
    S: Service<I>,
{
    pub(super) fn new(mut inner: S, split: Split<I, T>, shared: Arc<Shared>, classify: C) -> Self {
        let hedge = &shared.hedge;
        let mut started = None;
        let mut delay = Duration::ZERO;
        let mut at = None;
        if split.template.is_some() {
            let now = clock::now();
            started = hedge.measures().then_some(now);
            if let Some(known) = split.delay.or_else(|| hedge.delay(now)) {
                delay = known;
                let sent = Sent {
                    hedges: 0,
                    last: now,
                };
                at = hedge.next(sent, delay, split.deadline);
            }
        }
        let attempts = Attempts {
            first: Some(inner.call(split.first)),
            second: None,
            third: None,
        };
        Self {
            attempts,
            timer: at.map(|at| sleep_until(at.into())),
            next: at.map_or(Next::Never, |_| Next::Timer),
            inner,
            // Without a time nothing is made from it, and the body need not be kept.
            template: split.template.filter(|_| at.is_some()),
            classify,
            first: First { shared, started },
            delay,
            deadline: split.deadline,
            hedges: 0,
            failed: None,
        }
    }
}

impl<S, I, T, C> Future for ResponseFuture<S, I, T, C>
where
    S: Service<I>,
    T: Copies<I>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.attempts.as_mut().poll_next(cx) {
                Poll::Ready(Some((attempt, result))) => {
                    let success = this.classify.is_success(result.as_ref());
                    if attempt == 0 && success {
                        this.first.answered();
                    } else if attempt == 0 || success {
                        this.first.given_up();
                    }
                    let outcome = Failed { result, attempt };
                    if success {
                        // The losers end, and what was granted and not sent goes back, before anybody sees the winner.
                        this.attempts.as_mut().clear();
                        *this.next = Next::Never;
                        *this.failed = None;
                        return Poll::Ready(outcome.pass(*this.hedges, this.classify, this.first));
                    }
                    let better = match this.failed {
                        None => true,
                        Some(before) => before.result.is_err() && outcome.result.is_ok(),
                    };
                    if better {
                        *this.failed = Some(outcome);
                    }
                    continue;
                }
                Poll::Ready(None) => {
                    let Some(failed) = this.failed.take() else {
                        panic!("response future polled after completion");
                    };
                    *this.next = Next::Never;
                    return Poll::Ready(failed.pass(*this.hedges, this.classify, this.first));
                }
                Poll::Pending => {}
            }
            match mem::replace(this.next, Next::Never) {
                Next::Never => return Poll::Pending,
                Next::Timer => {
                    if let Some(timer) = this.timer.as_mut().as_pin_mut()
                        && timer.poll(cx).is_pending()
                    {
                        *this.next = Next::Timer;
                        return Poll::Pending;
                    }
                    let copy = this
                        .template
                        .as_ref()
                        .and_then(|it| it.copy(*this.hedges + 1));
                    // The budget comes last: what cannot be sent must not cost what others could use.
                    let granted = copy.and_then(|copy| Some((copy, this.first.shared.ask()?)));
                    if let Some((copy, granted)) = granted {
                        *this.next = Next::Ready { copy, granted };
                    }
                }
                Next::Ready { copy, granted } => {
                    let Poll::Ready(ready) = this.inner.poll_ready(cx) else {
                        *this.next = Next::Ready { copy, granted };
                        return Poll::Pending;
                    };
                    // A service that is broken is no reason to give up what is under way.
                    if ready.is_ok() {
                        granted.sent();
                        *this.hedges += 1;
                        let future = this.inner.call(copy);
                        this.attempts.as_mut().at(*this.hedges).set(Some(future));
                        metrics::sent(&this.first.shared.name);
                        crate::trace::debug!(
                            hedge = &*this.first.shared.name,
                            number = *this.hedges,
                            delay = ?*this.delay,
                            "request hedged"
                        );
                        let sent = Sent {
                            hedges: *this.hedges,
                            last: clock::now(),
                        };
                        let hedge = &this.first.shared.hedge;
                        if let Some(at) = hedge.next(sent, *this.delay, *this.deadline) {
                            this.timer.set(Some(sleep_until(at.into())));
                            *this.next = Next::Timer;
                        }
                    }
                }
            }
        }
    }
}

impl<R, E> Failed<R, E> {
    fn pass<C: Classify<R, E>>(self, hedges: u32, classify: &C, first: &First) -> Result<R, E> {
        if self.attempt > 0 {
            metrics::won(&first.shared.name);
        }
        self.result.map(|mut response| {
            if hedges > 0 {
                classify.report(&mut response, hedges, self.attempt);
            }
            response
        })
    }
}

impl<S, I, T, C> fmt::Debug for ResponseFuture<S, I, T, C>
where
    S: Service<I>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("hedges", &self.hedges)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}
