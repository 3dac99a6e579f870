use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use ha_core::budget::Budget;
use http::{HeaderMap, HeaderValue, Request, Response, request, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
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
        Hold { held: Option<Held<R>>, #[pin] stall: Sleep, #[pin] release: Sleep },
        Wait { next: Option<Next<R, E>>, #[pin] sleep: Sleep },
        Ready { next: Option<Next<R, E>> },
        Done,
    }
}

/// The outcome that is passed on if no better one comes.
type Last<R, E> = Result<Response<Buffered<R>>, E>;

/// What waits for its turn: a retry that the budget granted, and what is passed on if it cannot be sent.
struct Next<R: Body, E> {
    last: Last<R, E>,
    granted: Granted,
}

/// A retry taken out of the budget. Goes back when dropped without having been sent.
struct Granted {
    budget: Arc<Budget>,
    at: std::time::Instant,
    sent: bool,
}

impl Granted {
    fn sent(mut self) {
        self.sent = true;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if !self.sent {
            self.budget.refund(self.at);
        }
    }
}

/// A small response on its way in.
struct Held<R> {
    head: response::Parts,
    known: VecDeque<Bytes>,
    /// How many more bytes are held; a body may turn out longer than it said.
    room: u64,
    body: R,
}

enum HeldEnd<E> {
    Complete(Option<HeaderMap>),
    Broken(E),
    TooLong,
}

/// A response that keeps coming is held for this many times as long as one may stall.
const HOLD_STALLS: u32 = 4;

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
                        let room = self.room.checked_sub(data.len() as u64);
                        self.known.push_back(data);
                        match room {
                            Some(room) => self.room = room,
                            None => return Poll::Ready(HeldEnd::TooLong),
                        }
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

/// The wait before another attempt, if there may be one, and the retry that the budget granted for it.
fn admit<B>(
    config: &Config,
    template: &mut Option<Template<B>>,
    attempts: u32,
    verdict: Verdict,
) -> Option<(Duration, Granted)> {
    let Verdict::Retry { after } = verdict else {
        return None;
    };
    let candidate = template.as_ref().filter(|_| attempts < config.attempts)?;
    if !candidate.replay.is_replayable() {
        return None;
    }
    let wait = after.saturating_add(config.backoff.delay(attempts - 1, fastrand::u64(..)));
    let now = Instant::now();
    let at = now.into_std();
    let too_late = candidate
        .deadline()
        .is_some_and(|deadline| deadline.remaining(now) <= wait);
    // The budget comes last: what is refused for another reason must not cost a retry that others could use.
    (!too_late && config.budget.withdraw(at)).then(|| {
        let granted = Granted {
            budget: Arc::clone(&config.budget),
            at,
            sent: false,
        };
        (wait, granted)
    })
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
                                room: this.config.hold_limit,
                                body,
                            });
                            let stall = sleep(this.config.hold_stall);
                            let latest = Instant::now() + this.config.hold_stall * HOLD_STALLS;
                            let deadline = this.template.as_ref().and_then(Template::deadline);
                            let release =
                                sleep_until(deadline.map_or(latest, |Deadline(at)| at.min(latest)));
                            this.state.set(State::Hold {
                                held,
                                stall,
                                release,
                            });
                            continue;
                        }
                        (verdict, Ok(response.map(Buffered::stream)))
                    }
                },
                StateProj::Hold {
                    held,
                    mut stall,
                    release,
                } => {
                    let mut progress = false;
                    let Some(response) = held.as_mut() else {
                        unreachable!("held until taken")
                    };
                    let end = response.poll(cx, &mut progress);
                    // The head came in time: better a slow answer now than none at the deadline.
                    let released = end.is_pending() && release.poll(cx).is_ready();
                    if end.is_pending() && !released {
                        if progress {
                            stall
                                .as_mut()
                                .reset(Instant::now() + this.config.hold_stall);
                        }
                        ready!(stall.poll(cx));
                    }
                    let Some(Held {
                        head, known, body, ..
                    }) = held.take()
                    else {
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
                        Poll::Ready(HeldEnd::TooLong) => {
                            (Verdict::Pass, Buffered::resumed(known, body))
                        }
                        Poll::Pending if released => {
                            (Verdict::Pass, Buffered::resumed(known, body))
                        }
                        Poll::Pending => (again, Buffered::resumed(known, body)),
                    };
                    (verdict, Ok(Response::from_parts(head, body)))
                }
                StateProj::Wait { next, sleep } => {
                    ready!(sleep.poll(cx));
                    let next = next.take();
                    this.state.set(State::Ready { next });
                    continue;
                }
                StateProj::Ready { next } => {
                    let ready = ready!(this.inner.poll_ready(cx));
                    let Some(Next { last, granted }) = next.take() else {
                        unreachable!("kept until here")
                    };
                    let request = this
                        .template
                        .as_ref()
                        .filter(|_| ready.is_ok())
                        .and_then(|next| next.request(*this.attempts + 1));
                    if let Some(request) = request {
                        *this.attempts += 1;
                        granted.sent();
                        let response = this.inner.call(request);
                        this.state.set(State::Attempt { response });
                        continue;
                    }
                    // The service is gone, or the attempt before read on and outgrew the buffer.
                    (Verdict::Pass, last)
                }
                StateProj::Done => panic!("response future polled after completion"),
            };
            let Some((wait, granted)) = admit(this.config, this.template, *this.attempts, verdict)
            else {
                this.state.set(State::Done);
                return Poll::Ready(report(last, *this.attempts, this.config));
            };
            this.state.set(State::Wait {
                next: Some(Next { last, granted }),
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
