use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::{Held, Protocol, Shed};

pin_project! {
    /// The way of one request through a layer that refuses at once or not at all.
    ///
    /// # Cancel safety
    /// Dropping it drops the call inside; nothing else is under way.
    pub struct GuardFuture<F, R, P> {
        #[pin]
        step: Step<F>,
        protocol: P,
        request: PhantomData<fn(R)>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F> {
        Calling {
            #[pin]
            future: F,
            held: Option<Held>,
        },
        Refused { shed: Shed },
        Ended,
    }
}

impl<F, R, P> GuardFuture<F, R, P> {
    pub(super) const fn calling(future: F, held: Held, protocol: P) -> Self {
        let held = Some(held);
        Self {
            step: Step::Calling { future, held },
            protocol,
            request: PhantomData,
        }
    }

    pub(super) const fn refused(shed: Shed, protocol: P) -> Self {
        Self {
            step: Step::Refused { shed },
            protocol,
            request: PhantomData,
        }
    }
}

impl<F, R, P, Res, E> Future for GuardFuture<F, R, P>
where
    F: Future<Output = Result<Res, E>>,
    P: Protocol<R, Res, E>,
{
    type Output = Result<P::Response, P::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let output = match this.step.as_mut().project() {
            StepProj::Refused { shed } => this.protocol.refuse(*shed),
            StepProj::Calling { future, held } => {
                let result = ready!(future.poll(cx));
                let mut held = held.take().unwrap_or(Held::nothing());
                held.settle(this.protocol.classify(result.as_ref()));
                this.protocol.finish(result, held)
            }
            StepProj::Ended => panic!("polled after it had ended"),
        };
        this.step.set(Step::Ended);
        Poll::Ready(output)
    }
}

impl<F, R, P> fmt::Debug for GuardFuture<F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
