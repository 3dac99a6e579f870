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
        [None, Some("2".parse().unwrap()), Some("3".parse().unwrap())]
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
async fn a_request_marked_by_a_tier_in_front_is_not_retried() {
    let mut marked = request(Method::GET);
    marked.headers_mut().insert(MARKER, "2".parse().unwrap());
    assert_eq!(
        attempts_of(RetryLayer::http(), marked, vec![Act::Status(503)]).await,
        (1, UNAVAILABLE)
    );
}

#[tokio::test(start_paused = true)]
async fn three_tiers_send_fewer_requests_than_their_product() {
    let (service, seen) = server((0..100).map(|_| Act::Status(503)));
    let tier = || RetryLayer::http();
    let service = tier().layer(tier().layer(tier().layer(service)));
    let _ = service.oneshot(request(Method::GET)).await;
    // The innermost retries its unmarked request twice, the middle one and the outer one repeat once each per retry.
    assert_eq!(seen.lock().unwrap().len(), 7, "27 without the marker");
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
        Poll::Ready(if self.called { Err(Broke) } else { Ok(()) })
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
    assert_eq!(response.extensions().get(), Some(&Attempts(1)));
}
