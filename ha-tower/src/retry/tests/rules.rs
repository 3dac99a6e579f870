//! What is sent again, how often, and what the others are told.

use std::future::{Ready, ready};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idempotent_request_is_sent_again_after_each_retryable_failure() {
    for act in [
        Act::Status(429),
        Act::Status(502),
        Act::Status(503),
        Act::Status(504),
        Act::Break,
        Act::Truncated,
        Act::Stalled,
    ] {
        assert_eq!(
            attempts_of(RetryLayer::http(), request(Method::PUT), vec![act]).await,
            (2, OK)
        );
    }
    let acts = vec![Act::Break, Act::Status(503)];
    assert_eq!(
        attempts_of(RetryLayer::http(), request(Method::PUT), acts).await,
        (3, OK)
    );
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_the_same_failures_reach_the_caller() {
    let (service, _) = server([Act::Status(503), Act::Break, Act::Truncated]);
    assert_eq!(
        service
            .clone()
            .oneshot(request(Method::PUT))
            .await
            .unwrap()
            .status(),
        503
    );
    assert!(service.clone().oneshot(request(Method::PUT)).await.is_err());
    assert!(
        service
            .oneshot(request(Method::PUT))
            .await
            .unwrap()
            .collect()
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn other_statuses_and_local_answers_are_passed_on() {
    for status in [400, 404, 408, 409, 425, 500, 501, 505] {
        let (attempts, _) = attempts_of(
            RetryLayer::http(),
            request(Method::GET),
            vec![Act::Status(status)],
        )
        .await;
        assert_eq!(attempts, 1, "{status}");
    }
    assert_eq!(
        attempts_of(RetryLayer::http(), request(Method::GET), vec![Act::Local]).await,
        (1, UNAVAILABLE)
    );
}

#[tokio::test(start_paused = true)]
async fn a_post_is_sent_again_only_with_a_key_where_the_route_opted_in() {
    let post = |key: bool| {
        let mut request = request(Method::POST);
        if key {
            request
                .headers_mut()
                .insert("idempotency-key", "k-1".parse().unwrap());
        }
        request
    };
    let opted_in = || built(RetryLayer::builder().idempotency_key(true));
    for (layer, key, expected) in [
        (RetryLayer::http(), false, (1, UNAVAILABLE)),
        (RetryLayer::http(), true, (1, UNAVAILABLE)),
        (opted_in(), false, (1, UNAVAILABLE)),
        (opted_in(), true, (2, OK)),
    ] {
        assert_eq!(
            attempts_of(layer, post(key), vec![Act::Status(503)]).await,
            expected
        );
    }
    assert_eq!(
        attempts_of(opted_in(), post(false), vec![Act::Break]).await,
        (1, None)
    );
}

#[tokio::test(start_paused = true)]
async fn three_attempts_are_the_end_and_the_last_outcome_is_the_answer() {
    let acts = || vec![Act::Break, Act::Break, Act::Status(503), Act::Status(200)];
    assert_eq!(
        attempts_of(RetryLayer::http(), request(Method::GET), acts()).await,
        (3, UNAVAILABLE)
    );
    let once = built(RetryLayer::builder().attempts(1));
    assert_eq!(
        attempts_of(once, request(Method::GET), acts()).await,
        (1, None)
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_marked_counted_and_share_one_list_of_tried_endpoints() {
    let (service, seen) = server([Act::Status(503), Act::Break]);
    let layer = built(RetryLayer::builder().attempts_header(HeaderName::from_static("x-attempts")));
    let response = layer
        .layer(service)
        .oneshot(request(Method::GET))
        .await
        .unwrap();
    assert_eq!(response.extensions().get(), Some(&Attempts(3)));
    assert_eq!(response.headers()["x-attempts"], "3");
    let seen = seen.lock().unwrap();
    let markers: Vec<_> = seen
        .iter()
        .map(|(head, _)| head.headers().get(MARKER).cloned())
        .collect();
    assert_eq!(
        markers,
        ["1", "2", "3"].map(|number| Some(number.parse().unwrap()))
    );
    seen[0]
        .0
        .extensions()
        .get::<Tried>()
        .unwrap()
        .record("app-1".into());
    assert!(
        seen[2]
            .0
            .extensions()
            .get::<Tried>()
            .unwrap()
            .contains(&"app-1".into())
    );
}

#[tokio::test(start_paused = true)]
async fn what_this_layer_would_not_repeat_is_left_to_the_tiers_behind() {
    let (service, seen) = server([Act::Status(200)]);
    let _ = RetryLayer::http()
        .layer(service)
        .oneshot(request(Method::POST))
        .await;
    assert_eq!(seen.lock().unwrap()[0].0.headers().get(MARKER), None);
}

#[tokio::test(start_paused = true)]
async fn a_request_marked_by_a_tier_in_front_is_repeated_only_if_it_never_left() {
    for (act, expected) in [
        (Act::Status(503), (1, UNAVAILABLE)),
        (Act::Break, (1, None)),
        (Act::Unsent, (2, OK)),
    ] {
        let mut marked = request(Method::GET);
        marked.headers_mut().insert(MARKER, "1".parse().unwrap());
        let result = attempts_of(RetryLayer::http(), marked, vec![act]).await;
        assert_eq!(result, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_tiers_the_outermost_retries() {
    for (act, attempts) in [(Act::Status as fn(u16) -> Act, 3), (|_| Act::Break, 3)] {
        let (service, seen) = server((0..100).map(|_| act(503)));
        let tier = || RetryLayer::http();
        let service = tier().layer(tier().layer(tier().layer(service)));
        let _ = service.oneshot(request(Method::GET)).await;
        assert_eq!(
            seen.lock().unwrap().len(),
            attempts,
            "27 without the marker"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_override_has_the_last_word_about_one_request() {
    let with = |method, overriding| {
        let mut request = request(method);
        request.extensions_mut().insert(overriding);
        request
    };
    let failing = || (0..20).map(|_| Act::Status(503)).collect::<Vec<_>>();
    let many = || built(RetryLayer::builder().attempts(4));
    for (method, overriding, attempts) in [
        (Method::GET, Override::new(), 4),
        (Method::GET, Override::off(), 1),
        (Method::GET, Override::new().attempts(2), 2),
        (Method::GET, Override::new().attempts(0), 1),
        (Method::GET, Override::new().attempts(99), 10),
        (Method::GET, Override::new().idempotent(false), 1),
        (Method::POST, Override::new().idempotent(true), 4),
        (Method::POST, Override::new(), 1),
    ] {
        let request = with(method.clone(), overriding);
        let (made, _) = attempts_of(many(), request, failing()).await;
        assert_eq!(made, attempts, "{method} {overriding:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_a_route_is_heeded_where_there_is_no_override() {
    use crate::route::{Policy, Retry};

    let policy = |policy: crate::route::Builder| policy.build().unwrap();
    let off = || policy(Policy::builder().retry(Retry::Off));
    let safe = || policy(Policy::builder().idempotent(true).retry(Retry::Attempts(2)));
    for (method, policy, overriding, attempts) in [
        (Method::GET, off(), None, 1),
        (Method::POST, safe(), None, 2),
        (Method::POST, safe(), Some(Override::off()), 1),
    ] {
        let mut request = request(method.clone());
        request.extensions_mut().insert(policy);
        if let Some(overriding) = overriding {
            request.extensions_mut().insert(overriding);
        }
        let failing = (0..9).map(|_| Act::Status(503)).collect();
        let (made, _) = attempts_of(RetryLayer::http(), request, failing).await;
        assert_eq!(made, attempts, "{method} {overriding:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_a_matcher_declares_is_sent_again() {
    let layer =
        || built(RetryLayer::builder().idempotent(|head| head.uri.path().starts_with("/search")));
    for (path, expected) in [("/search", (2, OK)), ("/x", (1, UNAVAILABLE))] {
        let mut post = request(Method::POST);
        *post.uri_mut() = path.parse().unwrap();
        let made = attempts_of(layer(), post, vec![Act::Status(503)]).await;
        assert_eq!(made, expected, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_of_too_many_fields_is_sent_once() {
    for (fields, expected) in [(255, (2, OK)), (300, (1, UNAVAILABLE))] {
        let mut bomb = request(Method::GET);
        for _ in 0..fields {
            bomb.headers_mut().append("x-bomb", "b".parse().unwrap());
        }
        let made = attempts_of(RetryLayer::http(), bomb, vec![Act::Status(503)]).await;
        assert_eq!(made, expected, "{fields} fields");
    }
}

/// Ready only after it was polled for it once since the last call; calling it unready is a bug of the caller.
#[derive(Default)]
struct Strict {
    asked: bool,
    calls: Arc<Mutex<u32>>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            asked: false,
            calls: Arc::clone(&self.calls),
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.asked, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.asked),
            "called without having been ready"
        );
        *self.calls.lock().unwrap() += 1;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_is_driven_before_each_attempt() {
    let service = Strict::default();
    let calls = Arc::clone(&service.calls);
    let _ = RetryLayer::http()
        .layer(service)
        .oneshot(request(Method::GET))
        .await
        .unwrap();
    assert_eq!(*calls.lock().unwrap(), 3);
}

/// Ready once, then broken for good.
#[derive(Clone, Default)]
struct Fails {
    called: bool,
}

impl<B> Service<Request<B>> for Fails {
    type Response = Response<Full<Bytes>>;
    type Error = Broke;
    type Future = Ready<Result<Self::Response, Broke>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        Poll::Ready(if self.called {
            Err(Broke::default())
        } else {
            Ok(())
        })
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.called = true;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_service_fails_before_the_next_attempt_the_last_answer_is_the_answer() {
    let layer = RetryLayer::http();
    let service = layer.layer(Fails::default());
    let response = service.oneshot(request(Method::GET)).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(Attempts::of(&response), Attempts(1));
}

#[tokio::test(start_paused = true)]
async fn what_a_boxed_error_holds_decides_as_if_there_was_no_box() {
    let refused = || BoxError::from(crate::breaker::Error::Open { retry_in: None });
    let broken = || BoxError::from(Broke::default());
    for (fail, expected) in [(refused as fn() -> BoxError, 1), (broken, 3)] {
        let calls = Arc::new(Mutex::new(0));
        let counted = calls.clone();
        let service = service_fn(move |_: Request<Replay<Empty<Bytes>>>| {
            *counted.lock().unwrap() += 1;
            ready(Err::<Response<Full<Bytes>>, _>(fail()))
        });
        let client = RetryLayer::http().layer(service.map_err(Boxed::from));
        let error = client
            .oneshot(Request::new(Empty::new()))
            .await
            .unwrap_err();
        assert_eq!(error.into_inner().to_string(), fail().to_string());
        assert_eq!(*calls.lock().unwrap(), expected);
    }
}
