use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::budget;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::retry::RetryLayer;

#[derive(Debug, PartialEq)]
struct Order {
    safe: bool,
    attempt: u32,
    deadline: Option<Instant>,
}

const SAFE: Order = Order {
    safe: true,
    attempt: 1,
    deadline: None,
};

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
enum Failed {
    #[error("busy for {0:?}")]
    Busy(Duration),
    #[error("wrong")]
    Wrong,
}

/// Counts the copies.
#[derive(Default)]
struct Orders(AtomicU32);

impl Policy<Order, u32, Failed> for Arc<Orders> {
    fn copy(&self, order: &Order) -> Option<Order> {
        self.0.fetch_add(1, Ordering::Relaxed);
        order.safe.then_some(Order { ..*order })
    }

    fn classify(&self, _: &Order, outcome: Result<&u32, &Failed>) -> Verdict {
        match outcome {
            Err(Failed::Busy(wait)) => Verdict::RetryAfter(*wait),
            Ok(0) => Verdict::Retry,
            _ => Verdict::Pass,
        }
    }

    fn deadline(&self, order: &Order) -> Option<std::time::Instant> {
        order.deadline.map(Instant::into_std)
    }

    fn prepare(&self, order: &mut Order, attempt: u32) {
        order.attempt = attempt;
    }
}

type Seen = Arc<Mutex<Vec<u32>>>;

/// Gives these outcomes in turn and 7 for ever after, and notes the numbers of the attempts.
fn server(
    outcomes: &[Result<u32, Failed>],
) -> (
    impl Service<Order, Response = u32, Error = Failed, Future: Send> + Clone + use<>,
    Seen,
) {
    let seen = Seen::default();
    let outcomes: Arc<Mutex<std::collections::VecDeque<_>>> =
        Arc::new(Mutex::new(outcomes.iter().copied().collect()));
    let log = Arc::clone(&seen);
    let service = service_fn(move |order: Order| {
        log.lock().unwrap().push(order.attempt);
        let outcome = outcomes.lock().unwrap().pop_front().unwrap_or(Ok(7));
        async move { outcome }
    });
    (service, seen)
}

const BUSY: Result<u32, Failed> = Err(Failed::Busy(Duration::ZERO));

#[tokio::test(start_paused = true)]
async fn outcomes_are_what_the_policy_says_they_are() {
    for (outcomes, attempts, result) in [
        (&[][..], 1, Ok(7)),
        (&[BUSY], 2, Ok(7)),
        (&[Ok(0)], 2, Ok(7)),
        (&[BUSY, Ok(0)], 3, Ok(7)),
        (&[BUSY, BUSY, BUSY], 3, BUSY),
        (&[Err(Failed::Wrong)], 1, Err(Failed::Wrong)),
        (&[BUSY, Err(Failed::Wrong)], 2, Err(Failed::Wrong)),
    ] {
        let (service, seen) = server(outcomes);
        let layer = RetryLayer::generic(Arc::new(Orders::default()));
        assert_eq!(layer.layer(service).oneshot(SAFE).await, result);
        let expected: Vec<_> = (1..=attempts).collect();
        assert_eq!(*seen.lock().unwrap(), expected, "{outcomes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_copied_only_before_an_attempt_that_may_be_followed_by_another() {
    for (attempts, outcomes, copies) in [
        (3, &[][..], 1),
        (3, &[BUSY], 2),
        (3, &[BUSY, BUSY], 2),
        (2, &[BUSY], 1),
        (1, &[BUSY], 0),
    ] {
        let policy = Arc::new(Orders::default());
        let layer = GenericLayer::builder(Arc::clone(&policy)).attempts(attempts);
        let (service, _) = server(outcomes);
        let _ = layer.build().unwrap().layer(service).oneshot(SAFE).await;
        let made = policy.0.load(Ordering::Relaxed);
        assert_eq!(made, copies, "{attempts} attempts, {outcomes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_copied_is_sent_once() {
    let (service, seen) = server(&[BUSY]);
    let layer = RetryLayer::generic(Arc::new(Orders::default()));
    let order = Order {
        safe: false,
        ..SAFE
    };
    assert_eq!(layer.layer(service).oneshot(order).await, BUSY);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_fits_the_cap_and_the_deadline_or_is_not_waited() {
    let now = Instant::now();
    let secs = Duration::from_secs;
    for (wait, deadline, attempts) in [(3, None, 2), (6, None, 1), (3, Some(2), 1), (3, Some(4), 2)]
    {
        let (service, seen) = server(&[Err(Failed::Busy(secs(wait)))]);
        let layer = RetryLayer::generic(Arc::new(Orders::default()));
        let started = Instant::now();
        let order = Order {
            deadline: deadline.map(|at| started + secs(at)),
            ..SAFE
        };
        let _ = layer.layer(service).oneshot(order).await;
        assert_eq!(seen.lock().unwrap().len(), attempts, "{wait} {deadline:?}");
        let waited = started.elapsed() >= secs(wait);
        assert_eq!(waited, attempts == 2, "{wait} {deadline:?}");
    }
    assert!(now.elapsed() < secs(7));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_amplified_by_the_budget_and_no_more() {
    let config = budget::Config {
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let never = Backoff::new(Duration::ZERO, Duration::ZERO);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let failing = service_fn(move |()| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<(), _>("down") }
    });
    let layer = GenericLayer::builder(OnError).backoff(never).budget(config);
    let layer = layer.build().unwrap();
    for _ in 0..1_000 {
        let _ = layer.layer(failing.clone()).oneshot(()).await;
    }
    assert_eq!(calls.swap(0, Ordering::Relaxed), 1_200);
    // The negative control: the same without a budget.
    for _ in 0..1_000 {
        for _ in 0..3 {
            let _ = failing.clone().oneshot(()).await;
        }
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_an_error_like_any_other() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |()| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        tokio::time::timeout(Duration::from_secs(1), async move {
            if first {
                std::future::pending::<()>().await;
            }
        })
    });
    let service = RetryLayer::generic(OnError).layer(service);
    assert_eq!(service.oneshot(()).await, Ok(()));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn senseless_settings_are_refused_by_name_and_value() {
    let day = Duration::from_secs(86_401);
    let builder = || GenericLayer::builder(OnError);
    for (bad, message) in [
        (
            builder().attempts(0),
            "retry.attempts is 0: must be at least 1",
        ),
        (
            builder().attempts(11),
            "retry.attempts is 11: must be at most 10",
        ),
        (
            builder().retry_after_cap(day),
            "retry.retry_after_cap is 86401s: must not be longer than a day",
        ),
        (
            builder().backoff(Backoff::new(day, Duration::ZERO)),
            "backoff.base is 86401s: must not be longer than backoff.cap",
        ),
    ] {
        assert_eq!(bad.build().unwrap_err().to_string(), message);
    }
}
