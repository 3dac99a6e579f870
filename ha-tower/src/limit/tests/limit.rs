use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

use super::*;

fn bulkhead(max: u32) -> LimitLayer<Http> {
    LimitLayer::concurrency(max).http().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_place_is_taken_until_the_body_has_ended() {
    let layer = bulkhead(1);
    let (service, handle) = (layer.layer(slow()), layer.handle());
    let response = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(handle.snapshot().in_flight, 1);
    let second = service.clone().oneshot(request()).await.unwrap();
    assert!(is_refusal(&second, 503), "{second:?}");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "answer"
    );
    assert_eq!(handle.snapshot().in_flight, 0);
    let third = service.oneshot(request()).await.unwrap();
    assert_eq!(third.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_or_empty_gives_the_place_back() {
    let layer = bulkhead(1);
    let handle = layer.handle();
    drop(layer.layer(slow()).oneshot(request()).await.unwrap());
    assert_eq!(handle.snapshot().in_flight, 0);
    let empty = app(|| async { Ok(Response::new(Full::default())) });
    let response = layer.layer(empty).oneshot(request()).await.unwrap();
    assert_eq!(handle.snapshot().in_flight, 0, "a server never polls it");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_gives_the_place_back() {
    let broken = service_fn(|_: Request<()>| async {
        let frames = futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>("broken")]);
        Ok::<_, Infallible>(Response::new(http_body_util::StreamBody::new(frames)))
    });
    let layer = bulkhead(1);
    let response = layer.layer(broken).oneshot(request()).await.unwrap();
    assert_eq!(layer.handle().snapshot().in_flight, 1);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(layer.handle().snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_give_the_place_back() {
    let layer = LimitLayer::concurrency(1).build().unwrap();
    let fail = service_fn(|(): ()| async { Err::<(), _>("broken") });
    let error = layer.layer(fail).oneshot(()).await.unwrap_err();
    assert!(!error.is_shed() && error.reason().is_none());
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "broken"
    );
    assert_eq!(layer.handle().snapshot().in_flight, 0);

    let in_future = service_fn(|(): ()| async {
        tokio::task::yield_now().await;
        if true {
            panic!("in the future");
        }
        Ok::<_, Infallible>(())
    });
    let call = AssertUnwindSafe(layer.layer(in_future).oneshot(()));
    assert!(call.catch_unwind().await.is_err());
    assert_eq!(layer.handle().snapshot().in_flight, 0);

    let in_call = service_fn(|(): ()| -> std::future::Ready<Result<(), Infallible>> {
        panic!("in the call")
    });
    let call = AssertUnwindSafe(layer.layer(in_call).oneshot(()));
    assert!(call.catch_unwind().await.is_err());
    assert_eq!(layer.handle().snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_is_told_at_once_and_nothing_is_sent() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let service = LimitLayer::concurrency(2)
        .build()
        .unwrap()
        .layer(service_fn(move |(): ()| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Result<(), Infallible>>()
        }));
    let held: Vec<_> = (0..2).map(|_| service.clone().call(())).collect();
    let error = service
        .clone()
        .call(())
        .now_or_never()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Full));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_eq!(error.to_string(), "request was shed: too much is under way");
    drop(held);
    assert!(
        service.clone().call(()).now_or_never().is_none(),
        "it is under way"
    );
}

#[tokio::test(start_paused = true)]
async fn however_often_the_layer_is_applied_it_is_one_limit() {
    let layer = bulkhead(1);
    let routes = [layer.layer(slow()), layer.clone().layer(slow())];
    let held = routes[0].clone().oneshot(request()).await.unwrap();
    for route in &routes {
        let response = route.clone().oneshot(request()).await.unwrap();
        assert!(is_refusal(&response, 503));
    }
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_limit_can_be_raised_and_lowered_while_it_works() {
    let layer = bulkhead(1);
    let (service, handle) = (layer.layer(slow()), layer.handle());
    let one = service.clone().oneshot(request()).await.unwrap();
    handle.set_limit(2).unwrap();
    let two = service.clone().oneshot(request()).await.unwrap();
    handle.set_limit(1).unwrap();
    assert_eq!(
        (handle.snapshot().limit, handle.snapshot().in_flight),
        (1, 2)
    );
    drop(one);
    assert!(is_refusal(
        &service.clone().oneshot(request()).await.unwrap(),
        503
    ));
    drop(two);
    assert_eq!(service.oneshot(request()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn shares_keep_room_for_what_is_critical() {
    let layer = LimitLayer::concurrency(4)
        .shares(0.5, 0.25)
        .http()
        .build()
        .unwrap();
    let service = layer.layer(slow());
    let mut held = Vec::new();
    for (priority, status) in [
        (Priority::Sheddable, 200),
        (Priority::Sheddable, 503),
        (Priority::Default, 200),
        (Priority::Default, 503),
        (Priority::Critical, 200),
        (Priority::Critical, 200),
        (Priority::Critical, 503),
    ] {
        let response = service.clone().oneshot(with(priority)).await.unwrap();
        assert_eq!(response.status(), status, "{priority}");
        held.push(response);
    }
}

#[tokio::test(start_paused = true)]
async fn a_priority_comes_from_the_extension_and_from_a_header_only_where_it_is_trusted() {
    let name = http::HeaderName::from_static("x-priority");
    let trusting = Http::new().trust_priority_header(name);
    let priority = |protocol: &Http, request: &Request<()>| {
        <Http as Protocol<_, Answer, Infallible>>::priority(protocol, request)
    };
    let with_header = |text: &str| {
        Request::get("/")
            .header("x-priority", text)
            .body(())
            .unwrap()
    };
    for (text, expected) in [
        ("critical", Priority::Critical),
        ("SHEDDABLE", Priority::Sheddable),
        ("default", Priority::Default),
        ("most important", Priority::Default),
        ("", Priority::Default),
        ("\u{e9}", Priority::Default),
    ] {
        assert_eq!(
            priority(&trusting, &with_header(text)),
            expected,
            "{text:?}"
        );
        assert_eq!(
            priority(&Http::new(), &with_header(text)),
            Priority::Default
        );
    }
    let mut request = with_header("critical");
    request.extensions_mut().insert(Priority::Sheddable);
    assert_eq!(priority(&trusting, &request), Priority::Sheddable);
}

#[tokio::test(start_paused = true)]
async fn refusals_say_when_to_come_again() {
    let wait = std::time::Duration::from_millis(2_500);
    let layer = LimitLayer::concurrency(1)
        .http()
        .retry_after(wait)
        .build()
        .unwrap();
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let refused = service.oneshot(request()).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "3");
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["status"], 503);
    assert_eq!(document["detail"], "too much is under way");
    drop(held);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "polled after it had ended")]
async fn a_future_that_has_ended_says_so_when_it_is_polled_again() {
    let mut call = Box::pin(bulkhead(1).layer(slow()).oneshot(request()));
    drop((&mut call).await);
    let mut service = bulkhead(1).layer(slow());
    let mut call = Box::pin(service.call(request()));
    drop((&mut call).await);
    drop((&mut call).await);
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name_and_value() {
    let fixed = |max| LimitLayer::concurrency(max).build().map(drop);
    let shares = |default, sheddable| {
        LimitLayer::concurrency(1)
            .shares(default, sheddable)
            .build()
            .map(drop)
    };
    let queue = QueueConfig {
        capacity: 0,
        ..QueueConfig::default()
    };
    let adaptive = AdaptiveConfig {
        min: 0,
        ..AdaptiveConfig::default()
    };
    for (outcome, field, value) in [
        (fixed(0), "limit.concurrency", "0"),
        (fixed(1_000_001), "limit.concurrency", "1000001"),
        (shares(0.0, 0.0), "limit.shares.default", "0"),
        (shares(1.1, 0.5), "limit.shares.default", "1.1"),
        (shares(f64::NAN, 0.5), "limit.shares.default", "NaN"),
        (shares(0.5, 0.6), "limit.shares.sheddable", "0.6"),
        (
            LimitLayer::concurrency(1).queue(queue).build().map(drop),
            "queue.capacity",
            "0",
        ),
        (
            LimitLayer::adaptive(adaptive).build().map(drop),
            "limit.min",
            "0",
        ),
        (bulkhead(1).handle().set_limit(0), "limit.concurrency", "0"),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!((error.field(), error.value()), (field, value));
    }
    let adaptive = LimitLayer::adaptive(AdaptiveConfig::default())
        .build()
        .unwrap();
    let error = adaptive.handle().set_limit(5).unwrap_err();
    assert_eq!(error.value(), "5");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Calls that begin, answer, fail and are dropped in any order.
    #[test]
    fn places_never_leak(
        max in 1u32..4,
        waits in any::<bool>(),
        steps in prop::collection::vec((0u8..4, 0usize..8), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut builder = LimitLayer::concurrency(max);
            if waits {
                builder = builder.queue(QueueConfig { capacity: 2, ..QueueConfig::default() });
            }
            let layer = builder.build().unwrap();
            let (mock, mut inner) = tower_test::mock::pair::<(), ()>();
            inner.allow(1_000);
            let service = layer.layer(mock);
            let (mut calls, mut answers) = (Vec::new(), Vec::new());
            for (step, which) in steps {
                match step {
                    0 | 1 => {
                        let mut service = service.clone();
                        service.ready().await.unwrap();
                        let mut call = Box::pin(service.call(()));
                        if (&mut call).now_or_never().is_none() {
                            calls.push(call);
                        }
                    }
                    2 if !calls.is_empty() => drop(calls.remove(which % calls.len())),
                    3 if !answers.is_empty() => {
                        let responder: tower_test::mock::SendResponse<()> = answers.remove(0);
                        if which % 2 == 0 {
                            responder.send_response(());
                        } else {
                            responder.send_error("broken");
                        }
                    }
                    _ => tokio::time::advance(MS * which as u32).await,
                }
                while let Some(Some(((), responder))) = inner.next_request().now_or_never() {
                    answers.push(responder);
                }
                let mut left = Vec::new();
                for mut call in calls {
                    if (&mut call).now_or_never().is_none() {
                        left.push(call);
                    }
                }
                calls = left;
                prop_assert!(layer.handle().snapshot().in_flight <= max);
            }
            drop(calls);
            let after = layer.handle().snapshot();
            prop_assert_eq!((after.in_flight, after.waiting), (0, 0));
            Ok(())
        })?;
    }
}
