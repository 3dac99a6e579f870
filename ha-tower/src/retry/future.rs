use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, request, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

use super::layer::Config;
use super::policy::{Safety, Verdict, judge_error, judge_response};
use super::{Attempts, MARKER};
use crate::body::{BoxError, Buffered, Replay, ReplayHandle};
use crate::timeout::Deadline;

/// What the next attempt is made from.
#[derive(Debug)]
pub(super) struct Template<B> {
    head: request::Parts,
    replay: ReplayHandle<B>,
}

impl<B> Template<B> {
    pub(super) const fn new(head: request::Parts, replay: ReplayHandle<B>) -> Self {
        Self { head, replay }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.head.extensions.get::<Deadline>().copied()
    }

    fn request(&self, attempt: u32) -> Option<Request<Replay<B>>> {
        let body = self.replay.restart()?;
        let mut head = self.head.clone();
        head.headers.insert(MARKER, HeaderValue::from(attempt));
        Some(Request::from_parts(head, body))
    }
}

pin_project! {
    /// The response of [`Retry`](super::Retry).
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<Replay<B>>>,
        R: Body,
    {
        inner: S,
        config: Arc<Config>,
        safety: Safety,
        // `None` when there will be no other attempt.
        template: Option<Template<B>>,
        attempts: u32,
        #[pin]
        state: State<S::Future, R, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwn]
    enum State<F, R, E>
    where
        R: Body,
    {
        Attempt { #[pin] response: F },
        Hold { held: Option<Held<R>>, #[pin] stall: Sleep },
        Wait { last: Option<Last<R, E>>, #[pin] sleep: Sleep },
        Ready { last: Option<Last<R, E>> },
        Done,
    }
}

/// The outcome that is passed on if no better one comes.
type Last<R, E> = Result<Response<Buffered<R>>, E>;

/// A small response on its way in.
struct Held<R> {
    head: response::Parts,
    known: VecDeque<Bytes>,
    body: R,
}

enum HeldEnd<E> {
    Complete(Option<HeaderMap>),
    Broken(E),
}

impl<R: Body<Data = Bytes> + Unpin> Held<R> {
    /// Ready at the end; `progress` tells whether bytes came.
    fn poll(&mut self, cx: &mut Context<'_>, progress: &mut bool) -> Poll<HeldEnd<R::Error>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(HeldEnd::Complete(None)),
                Some(Err(error)) => return Poll::Ready(HeldEnd::Broken(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        *progress = true;
                        self.known.push_back(data);
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(HeldEnd::Complete(Some(trailers)));
                        }
                    }
                },
            }
        }
    }
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<Replay<B>>>,
    R: Body,
{
    pub(super) fn new(
        inner: S,
        attempt: S::Future,
        config: Arc<Config>,
        safety: Safety,
        template: Option<Template<B>>,
    ) -> Self {
        let state = State::Attempt { response: attempt };
        Self {
            inner,
            config,
            safety,
            template,
            attempts: 1,
            state,
        }
    }
}

/// The wait before another attempt, if there may be one. Takes it out of the budget.
fn admit<B>(
    config: &Config,
    template: &mut Option<Template<B>>,
    attempts: u32,
    verdict: Verdict,
) -> Option<Duration> {
    let Verdict::Retry { after } = verdict else {
        return None;
    };
    let candidate = template.as_ref().filter(|_| attempts < config.attempts)?;
    if !candidate.replay.is_replayable() {
        return None;
    }
    let wait = after.saturating_add(config.backoff.delay(attempts - 1, fastrand::u64(..)));
    let now = Instant::now();
    let too_late = candidate
        .deadline()
        .is_some_and(|deadline| deadline.remaining(now) <= wait);
    // The budget comes last: what is refused for another reason must not cost a retry that others could use.
    (!too_late && config.budget.withdraw(now.into_std())).then_some(wait)
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<Replay<B>>, Response = Response<R>>,
    S::Error: Error + 'static,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Last<R, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (verdict, last) = match this.state.as_mut().project() {
                StateProj::Attempt { response } => match ready!(response.poll(cx)) {
                    Err(error) => (judge_error(&error, *this.safety), Err(error)),
                    Ok(response) => {
                        let cap = this.config.retry_after_cap;
                        let verdict = judge_response(&response, *this.safety, cap);
                        let hold = verdict == Verdict::Pass
                            && *this.safety == Safety::Idempotent
                            && this.template.is_some()
                            && !response.body().is_end_stream()
                            && response
                                .body()
                                .size_hint()
                                .exact()
                                .is_some_and(|length| length <= this.config.hold_limit);
                        if hold {
                            let (head, body) = response.into_parts();
                            let held = Some(Held {
                                head,
                                known: VecDeque::new(),
                                body,
                            });
                            let stall = sleep(this.config.hold_stall);
                            this.state.set(State::Hold { held, stall });
                            continue;
                        }
                        (verdict, Ok(response.map(Buffered::stream)))
                    }
                },
                StateProj::Hold { held, mut stall } => {
                    let mut progress = false;
                    let Some(response) = held.as_mut() else {
                        unreachable!("held until taken")
                    };
                    let end = response.poll(cx, &mut progress);
                    if end.is_pending() {
                        if progress {
                            stall
                                .as_mut()
                                .reset(Instant::now() + this.config.hold_stall);
                        }
                        ready!(stall.poll(cx));
                    }
                    let Some(Held { head, known, body }) = held.take() else {
                        unreachable!("held until taken")
                    };
                    let again = Verdict::Retry {
                        after: Duration::ZERO,
                    };
                    let (verdict, body) = match end {
                        Poll::Ready(HeldEnd::Complete(trailers)) => {
                            (Verdict::Pass, Buffered::complete(known, trailers))
                        }
                        Poll::Ready(HeldEnd::Broken(error)) => {
                            (again, Buffered::broken(known, error))
                        }
                        Poll::Pending => (again, Buffered::resumed(known, body)),
                    };
                    (verdict, Ok(Response::from_parts(head, body)))
                }
                StateProj::Wait { last, sleep } => {
                    ready!(sleep.poll(cx));
                    let last = last.take();
                    this.state.set(State::Ready { last });
                    continue;
                }
                StateProj::Ready { last } => {
                    if let Err(error) = ready!(this.inner.poll_ready(cx)) {
                        let result = Err(error);
                        this.state.set(State::Done);
                        return Poll::Ready(result);
                    }
                    let request = this
                        .template
                        .as_ref()
                        .and_then(|next| next.request(*this.attempts + 1));
                    if let Some(request) = request {
                        *this.attempts += 1;
                        let response = this.inner.call(request);
                        this.state.set(State::Attempt { response });
                        continue;
                    }
                    // The attempt before read on and outgrew the buffer while this one waited.
                    let Some(last) = last.take() else {
                        unreachable!("kept until here")
                    };
                    (Verdict::Pass, last)
                }
                StateProj::Done => panic!("response future polled after completion"),
            };
            let Some(wait) = admit(this.config, this.template, *this.attempts, verdict) else {
                this.state.set(State::Done);
                return Poll::Ready(report(last, *this.attempts, this.config));
            };
            this.state.set(State::Wait {
                last: Some(last),
                sleep: sleep(wait),
            });
        }
    }
}

fn report<R: Body, E>(last: Last<R, E>, attempts: u32, config: &Config) -> Last<R, E> {
    last.map(|mut response| {
        response.extensions_mut().insert(Attempts(attempts));
        if let Some(name) = &config.attempts_header {
            response
                .headers_mut()
                .insert(name.clone(), HeaderValue::from(attempts));
        }
        response
    })
}

impl<S, B, R> fmt::Debug for ResponseFuture<S, B, R>
where
    S: Service<Request<Replay<B>>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("attempts", &self.attempts)
            .field("safety", &self.safety)
            .finish_non_exhaustive()
    }
}
