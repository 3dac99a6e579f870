use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::gate::{Permit, Waiting};
use super::{Held, Priority, Protocol, Reason, Shed};

pin_project! {
    /// The way of one request through a limit.
    ///
    /// # Cancel safety
    /// Dropping it gives the place back, or leaves the queue. A request that still waited was not sent.
    pub struct ResponseFuture<S, R, P>
    where
        S: Service<R>,
    {
        #[pin]
        step: Step<S, R>,
        protocol: P,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, R>
    where
        S: Service<R>,
    {
        Calling {
            #[pin]
            future: S::Future,
            permit: Option<Permit>,
        },
        // In a box, so that those who do not wait do not pay for its size.
        Waiting { wait: Option<Box<Wait<S, R>>> },
        Refused { shed: Shed },
        Ended,
    }
}

struct Wait<S, R> {
    waiting: Waiting,
    sleep: Pin<Box<Sleep>>,
    service: S,
    request: R,
    priority: Priority,
    deadline: Option<Instant>,
}

impl<S: Service<R>, R, P> ResponseFuture<S, R, P> {
    pub(super) const fn calling(future: S::Future, permit: Permit, protocol: P) -> Self {
        let permit = Some(permit);
        Self {
            step: Step::Calling { future, permit },
            protocol,
        }
    }

    pub(super) const fn refused(shed: Shed, protocol: P) -> Self {
        Self {
            step: Step::Refused { shed },
            protocol,
        }
    }

    pub(super) fn waiting(
        waiting: Waiting,
        service: S,
        request: R,
        (priority, deadline): (Priority, Option<Instant>),
        protocol: P,
    ) -> Self {
        let until = Instant::from_std(waiting.until());
        let wait = Box::new(Wait {
            waiting,
            sleep: Box::pin(tokio::time::sleep_until(until)),
            service,
            request,
            priority,
            deadline,
        });
        Self {
            step: Step::Waiting { wait: Some(wait) },
            protocol,
        }
    }
}

impl<S, R> Wait<S, R> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Permit, Reason>> {
        if let Poll::Ready(answer) = Pin::new(&mut self.waiting.answer).poll(cx) {
            // Nobody drops the sender without an answer.
            return Poll::Ready(answer.unwrap_or(Err(Reason::Delay)));
        }
        ready!(self.sleep.as_mut().poll(cx));
        let late = self.deadline.is_some_and(|at| at <= Instant::now());
        let reason = if late {
            Reason::Deadline
        } else {
            Reason::Delay
        };
        Poll::Ready(self.waiting.give_up().unwrap_or(Err(reason)))
    }

    fn go_on(mut self, answer: Result<Permit, Reason>) -> Step<S, R>
    where
        S: Service<R>,
    {
        match answer {
            Ok(permit) => Step::Calling {
                future: self.service.call(self.request),
                permit: Some(permit.with_deadline(self.deadline)),
            },
            Err(reason) => Step::Refused {
                shed: self.waiting.gate.shed(reason, self.priority),
            },
        }
    }
}

impl<S, R, P> Future for ResponseFuture<S, R, P>
where
    S: Service<R>,
    P: Protocol<R, S::Response, S::Error>,
{
    type Output = Result<P::Response, P::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StepProj::Waiting { wait } = this.step.as_mut().project() {
            let answer = match wait {
                Some(wait) => ready!(wait.poll(cx)),
                None => panic!("polled after it had panicked"),
            };
            if let Some(wait) = wait.take() {
                let next = wait.go_on(answer);
                this.step.set(next);
            }
        }
        let output = match this.step.as_mut().project() {
            StepProj::Calling { future, permit } => {
                let result = ready!(future.poll(cx));
                let mut held = permit.take().map_or_else(Held::nothing, Held::permit);
                held.settle(this.protocol.classify(result.as_ref()));
                this.protocol.finish(result, held)
            }
            StepProj::Refused { shed } => this.protocol.refuse(*shed),
            StepProj::Waiting { .. } | StepProj::Ended => panic!("polled after it had ended"),
        };
        this.step.set(Step::Ended);
        Poll::Ready(output)
    }
}

impl<S: Service<R>, R, P> fmt::Debug for ResponseFuture<S, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match &self.step {
            Step::Calling { .. } => "calling",
            Step::Waiting { .. } => "waiting",
            Step::Refused { .. } => "refused",
            Step::Ended => "ended",
        };
        f.debug_tuple("ResponseFuture").field(&step).finish()
    }
}
