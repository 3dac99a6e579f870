use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tower::{Layer, ServiceExt, service_fn};

use super::*;

fn layer() -> ThrottleLayer<Http> {
    ThrottleLayer::http(ThrottleConfig::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_everything_soon_sees_little_of_it() {
    let (status, seen) = (Arc::new(AtomicU16::new(503)), Arc::new(AtomicUsize::new(0)));
    let (asked, counted) = (Arc::clone(&status), Arc::clone(&seen));
    let server = app(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(answer(asked.load(Ordering::Relaxed))))
    });
    let layer = layer();
    let service = layer.layer(server);
    let mut local = 0;
    for _ in 0..2_000 {
        let response = service.clone().oneshot(request()).await.unwrap();
        local += usize::from(is_refusal(&response, 503));
    }
    let sent = seen.load(Ordering::Relaxed);
    assert_eq!(sent + local, 2_000);
    assert!((1..200).contains(&sent), "{sent}");
    let snapshot = layer.snapshot(Priority::Default);
    assert_eq!((snapshot.requests, snapshot.accepts), (2_000, 0));

    // It recovers: within a few windows everything is sent again.
    status.store(200, Ordering::Relaxed);
    for _ in 0..600 {
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        for _ in 0..10 {
            drop(service.clone().oneshot(request()).await.unwrap());
        }
    }
    assert!(layer.snapshot(Priority::Default).reject_ratio <= 0.0);
}

#[tokio::test(start_paused = true)]
async fn only_refusals_of_the_server_count_against_it() {
    for (status, local, expected) in [
        (200, false, (1, 1)),
        (404, false, (1, 1)),
        (429, false, (1, 0)),
        (503, false, (1, 0)),
        (500, false, (0, 0)),
        (503, true, (0, 0)),
    ] {
        let layer = layer();
        let server = app(move || async move {
            let mut answer = answer(status);
            if local {
                answer.extensions_mut().insert(LocalReply);
            }
            Ok(answer)
        });
        drop(layer.layer(server).oneshot(request()).await.unwrap());
        let seen = layer.snapshot(Priority::Default);
        assert_eq!((seen.requests, seen.accepts), expected, "{status} {local}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_counts_for_nothing() {
    let layer = layer();
    let stuck = app(std::future::pending);
    assert!(!dropped_after(1, layer.layer(stuck).oneshot(request())).await);
    assert_eq!(layer.snapshot(Priority::Default).requests, 0);
}

#[tokio::test(start_paused = true)]
async fn the_generic_form_counts_errors_and_refuses_with_one() {
    let layer = ThrottleLayer::new(ThrottleConfig::default()).unwrap();
    let service = layer.layer(service_fn(|(): ()| async { Err::<(), _>("busy") }));
    let mut reasons = Vec::new();
    for _ in 0..200 {
        reasons.extend(service.clone().oneshot(()).await.unwrap_err().reason());
    }
    assert!(reasons.len() > 100 && reasons.iter().all(|reason| *reason == Reason::Throttled));
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let config = ThrottleConfig {
        multiplier: 0.0,
        ..ThrottleConfig::default()
    };
    let error = ThrottleLayer::new(config).unwrap_err();
    assert_eq!((error.field(), error.value()), ("throttle.multiplier", "0"));
}
