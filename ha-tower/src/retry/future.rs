use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower_service::Service;

use super::hold::{End, Held, STALLS};
use super::layer::Config;
use super::policy::{Cause, Judgement, Protocol, Safety, Verdict, judge_error};
use super::terms::{GaveUp, Granted};
use super::{Attempts, MARKER, Telling, grpc, report};
use crate::body::{BoxError, Buffered, Replay, ReplayHandle};
use crate::timeout::Deadline;

/// What the next attempt is made from, and by whom.
#[derive(Debug)]
pub(super) struct Template<S, B> {
    inner: S,
    head: request::Parts,
    replay: ReplayHandle<B>,
}

impl<S, B> Template<S, B> {
    pub(super) const fn new(inner: S, head: request::Parts, replay: ReplayHandle<B>) -> Self {
        Self {
            inner,
            head,
            replay,
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.head.extensions.get::<Deadline>().copied()
    }

    /// The head of attempt number `attempt`; a copy only if there may be one after it.
    fn head(&mut self, attempt: u32, last: bool, marks: Option<Protocol>) -> request::Parts {
        let mut head = if last {
            let (rest, ()) = Request::new(()).into_parts();
            std::mem::replace(&mut self.head, rest)
        } else {
            self.head.clone()
        };
        if let Some(protocol) = marks {
            head.headers.insert(MARKER, HeaderValue::from(attempt));
            if protocol != Protocol::Http {
                let before = HeaderValue::from(attempt - 1);
                head.headers.insert(grpc::PREVIOUS_ATTEMPTS, before);
            }
        }
        head
    }
}

pin_project! {
    /// The response of [`Retry`](super::Retry).
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<Replay<B>>>,
        R: Body,
    {
        config: Arc<Config>,
        safety: Safety,
        // `None` when there will be no other attempt.
        template: Option<Template<S, B>>,
        attempts: u32,
        most: u32,
        #[pin]
        state: State<S::Future, R, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, E>
    where
        R: Body,
    {
        Attempt { #[pin] response: F, #[pin] late: Option<Sleep> },
        // Boxed, so that a request that needs none of it does not carry their size along.
        Hold { holding: Pin<Box<Holding<R>>> },
        Wait { next: Option<Box<Next<R, E>>>, sleep: Pin<Box<Sleep>> },
        Ready { next: Option<Box<Next<R, E>>> },
        Done,
    }
}

pin_project! {
    #[project = HoldingProj]
    struct Holding<R> {
        held: Option<Held<R>>,
        #[pin]
        stall: Sleep,
        #[pin]
        release: Sleep,
    }
}

/// The outcome that is passed on if no better one comes.
type Last<R, E> = Result<Response<Buffered<R>>, E>;

/// What waits for its turn: a retry that the budget granted, and what is passed on if it cannot be sent.
struct Next<R: Body, E> {
    last: Last<R, E>,
    granted: Granted,
}

impl<F, R: Body, E> State<F, R, E> {
    fn attempt(response: F, limit: Option<Duration>) -> Self {
        let late = limit.map(sleep);
        Self::Attempt { response, late }
    }

    fn hold(held: Held<R>, config: &Config, deadline: Option<Deadline>) -> Self
    where
        R: Body<Data = Bytes> + Unpin,
    {
        // Of a stream nobody knows when it ends: it must not wait for its own silence for long.
        let stalls = if held.is_measured() { STALLS } else { 1 };
        let latest = Instant::now() + config.hold_stall * stalls;
        let release = deadline.map_or(latest, |Deadline(at)| at.min(latest));
        let holding = Box::pin(Holding {
            held: Some(held),
            stall: sleep(config.hold_stall),
            release: sleep_until(release),
        });
        Self::Hold { holding }
    }
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<Replay<B>>>,
    R: Body,
{
    pub(super) fn new(
        attempt: S::Future,
        config: Arc<Config>,
        safety: Safety,
        most: u32,
        template: Option<Template<S, B>>,
    ) -> Self {
        let state = State::attempt(attempt, config.attempt_timeout);
        Self {
            config,
            safety,
            template,
            attempts: 1,
            most,
            state,
        }
    }
}

/// What a request allows after an attempt.
struct Chance<'a, S, B> {
    config: &'a Config,
    template: Option<&'a Template<S, B>>,
    attempts: u32,
    most: u32,
}

/// Whether the end of this answer is worth waiting for before its head is passed on.
fn is_held<R: Body>(config: &Config, response: &Response<R>) -> bool {
    !response.body().is_end_stream()
        && match response.body().size_hint().exact() {
            Some(length) => length <= config.hold_limit,
            // The status of a call comes with its end, and hardly any answer tells its length.
            None => {
                config.rules.protocol != Protocol::Http
                    && config.hold_limit > 0
                    && grpc::has_status_to_come(response)
            }
        }
}

impl<S, B> Chance<'_, S, B> {
    /// The wait before another attempt, if there may be one, and the retry that the budget granted for it.
    fn ask(&self, judgement: Judgement) -> Option<(Duration, Granted)> {
        let terms = &self.config.terms;
        if let Some(header) = judgement.bad_header {
            report::bad_header(&terms.name, header);
        }
        let refused = match judgement.verdict {
            Verdict::Pass => return None,
            Verdict::Stop => GaveUp::Pushback,
            Verdict::Retry { .. } if self.attempts >= self.most => GaveUp::Attempts,
            Verdict::Retry { after, cause } => {
                let template = self.template?;
                let asked = if template.replay.is_replayable() {
                    let deadline = template.deadline().map(|Deadline(at)| at.into_std());
                    terms.ask(self.attempts, cause, after, deadline)
                } else {
                    Err(GaveUp::Body)
                };
                match asked {
                    Ok(granted) => return Some(granted),
                    Err(reason) => reason,
                }
            }
        };
        terms.give_up(refused);
        None
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<Replay<B>>, Response = Response<R>>,
    S::Error: Telling,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Last<R, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (judgement, last) = match this.state.as_mut().project() {
                StateProj::Attempt { response, late } => match response.poll(cx) {
                    Poll::Ready(Err(error)) => {
                        let verdict = judge_error(&error, *this.safety);
                        (Judgement::from(verdict), Err(error))
                    }
                    Poll::Ready(Ok(response)) => {
                        let judgement = this.config.rules.judge(&response, *this.safety);
                        let retryable =
                            *this.safety == Safety::Idempotent && this.template.is_some();
                        if retryable
                            && judgement.verdict == Verdict::Pass
                            && is_held(this.config, &response)
                        {
                            let held = Held::new(response, this.config.hold_limit);
                            let deadline = this.template.as_ref().and_then(Template::deadline);
                            this.state.set(State::hold(held, this.config, deadline));
                            continue;
                        }
                        (judgement, Ok(response.map(Buffered::stream)))
                    }
                    Poll::Pending => {
                        let Some(late) = late.as_pin_mut() else {
                            return Poll::Pending;
                        };
                        ready!(late.poll(cx));
                        let verdict = match *this.safety {
                            Safety::Idempotent => Verdict::now(Cause::Timeout),
                            Safety::WhenUnsent | Safety::Once => Verdict::Pass,
                        };
                        (Judgement::from(verdict), Ok(this.config.rules.late()))
                    }
                },
                StateProj::Hold { holding } => {
                    let HoldingProj {
                        held,
                        mut stall,
                        release,
                    } = holding.as_mut().project();
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
                    let Some(held) = held.take() else {
                        unreachable!("held until taken")
                    };
                    let again = Judgement::from(Verdict::now(Cause::Broken));
                    let pass = Judgement::from(Verdict::Pass);
                    let (judgement, response) = match end {
                        Poll::Ready(End::Complete(trailers)) => {
                            let judgement = this.config.rules.judge_end(trailers.as_ref());
                            (judgement, held.complete(trailers))
                        }
                        Poll::Ready(End::Broken(error)) => (again, held.broken(error)),
                        Poll::Ready(End::TooLong) => (pass, held.resume()),
                        Poll::Pending if released => (pass, held.resume()),
                        Poll::Pending => (again, held.resume()),
                    };
                    (judgement, Ok(response))
                }
                StateProj::Wait { next, sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let next = next.take();
                    this.state.set(State::Ready { next });
                    continue;
                }
                StateProj::Ready { next } => {
                    let Some(template) = this.template.as_mut() else {
                        unreachable!("kept for this attempt")
                    };
                    let ready = ready!(template.inner.poll_ready(cx));
                    let Some(next) = next.take() else {
                        unreachable!("kept until here")
                    };
                    let Next { last, granted } = *next;
                    let body = ready.ok().and_then(|()| template.replay.restart());
                    if let Some(body) = body {
                        *this.attempts += 1;
                        granted.sent(&this.config.terms);
                        let is_last = *this.attempts >= *this.most;
                        let marks = (*this.safety == Safety::Idempotent)
                            .then_some(this.config.rules.protocol);
                        let head = template.head(*this.attempts, is_last, marks);
                        let response = template.inner.call(Request::from_parts(head, body));
                        if is_last {
                            *this.template = None;
                        }
                        let limit = this.config.attempt_timeout;
                        this.state.set(State::attempt(response, limit));
                        continue;
                    }
                    // The service is gone, or the attempt before read on and outgrew the buffer.
                    (Judgement::from(Verdict::Pass), last)
                }
                StateProj::Done => panic!("response future polled after completion"),
            };
            let chance = Chance {
                config: this.config,
                template: this.template.as_ref(),
                attempts: *this.attempts,
                most: *this.most,
            };
            let Some((wait, granted)) = chance.ask(judgement) else {
                this.state.set(State::Done);
                return Poll::Ready(report(last, *this.attempts, this.config));
            };
            this.state.set(State::Wait {
                next: Some(Box::new(Next { last, granted })),
                sleep: Box::pin(sleep(wait)),
            });
        }
    }
}

fn report<R: Body, E>(last: Last<R, E>, attempts: u32, config: &Config) -> Last<R, E> {
    last.map(|mut response| {
        if attempts > 1 {
            response.extensions_mut().insert(Attempts(attempts));
        }
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
