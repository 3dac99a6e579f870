use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll, Waker};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_although_the_service_is_not_ready() {
    let mut bed = Bed::new(Config::default());
    bed.inner.allow(0);
    bed.handle.force_open();
    bed.refused().await;
}

/// Must be asked whether it is ready before each call.
#[derive(Debug, Clone, Default)]
struct Strict {
    asked: bool,
}

impl tower::Service<()> for Strict {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.asked = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        assert!(
            std::mem::take(&mut self.asked),
            "called without being asked"
        );
        ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_not_asked_is_not_called_although_the_wait_ends_in_between() {
    let layer = BreakerLayer::new(Config::default(), Any).unwrap();
    let handle = layer.handle();
    let mut service = layer.layer(Strict::default());
    let mut context = Context::from_waker(Waker::noop());
    handle.force_open();
    assert!(service.poll_ready(&mut context).is_ready());
    handle.reset();
    assert!(service.call(()).await.unwrap_err().is_open());
    // The next one is asked and called.
    service.ready().await.unwrap().call(()).await.unwrap();
    // A clone does not take over that the other one was not asked.
    handle.force_open();
    assert!(service.poll_ready(&mut context).is_ready());
    handle.reset();
    let mut clone = service.clone();
    clone.ready().await.unwrap().call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_counts_as_one_of_a_call() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.inner.send_error("gone");
        assert!(!bed.service.ready().await.unwrap_err().is_open());
    }
    bed.refused().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_service_is_woken_by_it_and_polls_nothing_meanwhile() {
    let mut bed = Bed::new(Config::default());
    bed.inner.allow(0);
    let mut task = by_hand(bed.service.clone());
    assert!(task.poll().is_pending());
    assert_eq!(task.wakes(), 0);
    bed.inner.allow(1);
    assert_eq!(task.wakes(), 1);
    assert!(task.poll().is_ready());
}

/// A service that is polled by hand, and the count of its wakes.
struct ByHand {
    service: CircuitBreaker<Mock>,
    waker: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

fn by_hand(service: CircuitBreaker<Mock>) -> ByHand {
    ByHand {
        service,
        waker: Arc::default(),
    }
}

impl ByHand {
    fn poll(&mut self) -> Poll<Result<(), Error>> {
        let waker = Waker::from(self.waker.clone());
        self.service.poll_ready(&mut Context::from_waker(&waker))
    }

    fn wakes(&self) -> usize {
        self.waker.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
