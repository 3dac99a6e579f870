use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tower_service::Service;

// About a microsecond.
const STEPS: u32 = 1_500;

/// An endpoint that answers at once and does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Noop;

impl<R> Service<R> for Noop {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        ready(Ok(()))
    }
}

/// An endpoint that [works](work) when its response is polled, on the thread of the caller.
#[derive(Debug, Clone, Copy)]
pub struct Work;

impl<R> Service<R> for Work {
    type Response = ();
    type Error = Infallible;
    type Future = Worked;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Worked {
        Worked
    }
}

/// The response of [`Work`].
#[derive(Debug)]
pub struct Worked;

impl Future for Worked {
    type Output = Result<(), Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        work();
        Poll::Ready(Ok(()))
    }
}

/// Keeps a core busy for about a microsecond.
pub fn work() {
    // Each step waits for the one before.
    let mut x = 1u64;
    for _ in 0..STEPS {
        x = black_box(x.wrapping_mul(0x2545_f491_4f6c_dd1d));
    }
}

/// What a future gives that waits for nothing.
///
/// # Panics
/// When it waits.
// Awaited where it was made, a future is not copied; called, it would be.
#[inline(always)]
pub fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}
