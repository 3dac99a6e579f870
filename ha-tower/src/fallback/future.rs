use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body_util::Either;
use pin_project_lite::pin_project;

use super::{Backup, FallbackFailed, FallbackUsed, Reason, When};

/// What is needed once the service has answered.
pub(super) struct Asked<K, W, T> {
    pub(super) kept: T,
    pub(super) backup: K,
    pub(super) when: W,
}

pin_project! {
    /// The way of one request to the service and, if that fails, to its fallback.
    ///
    /// # Cancel safety
    /// Dropping it drops the call that is under way, and the failed answer that waits for the fallback.
    pub struct ResponseFuture<F, K, W, B, R, E>
    where
        K: Backup<B>,
    {
        name: Arc<str>,
        asked: Option<Asked<K, W, K::Kept>>,
        #[pin]
        step: Step<F, K::Future, R, E>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F, G, R, E> {
        First { #[pin] answer: F },
        // With the failure that is passed on if this one fails as well.
        Second { #[pin] answer: G, failure: Option<Result<Response<R>, E>>, reason: Reason },
        Done,
    }
}

impl<F, K: Backup<B>, W, B, R, E> ResponseFuture<F, K, W, B, R, E> {
    pub(super) fn new(answer: F, asked: Asked<K, W, K::Kept>, name: Arc<str>) -> Self {
        Self {
            name,
            asked: Some(asked),
            step: Step::First { answer },
        }
    }
}

impl<F, K: Backup<B>, W, B, R, E> fmt::Debug for ResponseFuture<F, K, W, B, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("fallback", &self.name)
            .finish_non_exhaustive()
    }
}

impl<F, K, W, B, R, E> Future for ResponseFuture<F, K, W, B, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    K: Backup<B>,
    W: When<Response<R>, E>,
{
    type Output = Result<Response<Either<R, K::ResponseBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                StepProj::First { answer } => {
                    let result = ready!(answer.poll(cx));
                    let Some(Asked {
                        kept,
                        mut backup,
                        when,
                    }) = this.asked.take()
                    else {
                        unreachable!("kept until here")
                    };
                    match when.reason(result.as_ref()) {
                        None => Err(result.map(|response| response.map(Either::Left))),
                        Some(reason) => match backup.ask(kept, reason) {
                            Some(answer) => Ok((answer, result, reason)),
                            None => {
                                count(this.name, reason, "unsuitable");
                                Err(first(result, reason))
                            }
                        },
                    }
                }
                StepProj::Second {
                    answer,
                    failure,
                    reason,
                } => {
                    let reason = *reason;
                    Err(match (ready!(answer.poll(cx)), failure.take()) {
                        (Ok(mut response), _) => {
                            count(this.name, reason, "used");
                            response.extensions_mut().insert(FallbackUsed { reason });
                            Ok(response.map(Either::Right))
                        }
                        (Err(error), Some(failure)) => {
                            let fallback = &**this.name;
                            let error: &dyn std::error::Error = &*error.into();
                            crate::trace::warn!(fallback, ?reason, error, "fallback failed");
                            count(this.name, reason, "failed");
                            first(failure, reason)
                        }
                        (Err(_), None) => unreachable!("kept until here"),
                    })
                }
                StepProj::Done => panic!("response future polled after completion"),
            };
            match next {
                Ok((answer, failure, reason)) => this.step.set(Step::Second {
                    answer,
                    failure: Some(failure),
                    reason,
                }),
                Err(result) => {
                    this.step.set(Step::Done);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// The first failure, as it was.
fn first<R, Q, E>(
    failure: Result<Response<R>, E>,
    reason: Reason,
) -> Result<Response<Either<R, Q>>, E> {
    failure.map(|mut response| {
        response.extensions_mut().insert(FallbackFailed { reason });
        response.map(Either::Left)
    })
}

#[cfg(feature = "metrics")]
fn count(name: &Arc<str>, reason: Reason, result: &'static str) {
    let name = name.to_string();
    metrics::counter!(
        "ha_fallback_total",
        "fallback" => name, "reason" => reason.label(), "result" => result
    )
    .increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &Arc<str>, _: Reason, _: &'static str) {}
