use crate::retry::RetryLayer;
use crate::route;
use crate::timeout::TimeoutLayer;

use super::*;

/// Whether a late answer to this request is hedged.
async fn hedged(layer: &HedgeLayer, request: Request<Full<Bytes>>) -> bool {
    let server = Server::new(&[(1_000, 200), (30, 200)]);
    let _ = outcome(layer, &server, request).await;
    server.seen().len() == 2
}

fn with(method: Method, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = request(method);
    for (name, value) in headers {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn only_what_is_safe_to_send_twice_is_hedged() {
    let key = ("idempotency-key", "k");
    let plain = after(100).build().unwrap();
    let keyed = after(100).idempotency_key(true).build().unwrap();
    for (method, headers, by_plain, by_keyed) in [
        (Method::GET, &[][..], true, true),
        (Method::HEAD, &[], true, true),
        (Method::PUT, &[], true, true),
        (Method::DELETE, &[], true, true),
        (Method::POST, &[], false, false),
        (Method::PATCH, &[], false, false),
        (Method::POST, &[key], false, true),
        (Method::POST, &[("idempotency-key", " ")], false, false),
        (Method::POST, &[key, key], false, false),
        (Method::CONNECT, &[key], false, false),
        (Method::GET, &[("upgrade", "websocket")], false, false),
        (Method::GET, &[("x-retry-attempt", "1")], true, true),
        (Method::GET, &[("x-retry-attempt", "2")], false, false),
        (Method::GET, &[("x-retry-attempt", "x")], false, false),
        (
            Method::GET,
            &[("grpc-previous-rpc-attempts", "1")],
            false,
            false,
        ),
    ] {
        let request = || with(method.clone(), headers);
        assert_eq!(hedged(&plain, request()).await, by_plain, "{:?}", request());
        assert_eq!(hedged(&keyed, request()).await, by_keyed, "{:?}", request());
    }
    let search = after(100)
        .idempotent(|head| head.uri.path() == "/x")
        .build()
        .unwrap();
    assert!(hedged(&search, request(Method::POST)).await);
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_the_route_decides_before_the_method_and_the_layer() {
    let layer = after(100).build().unwrap();
    let policy = route::Policy::builder;
    for (builder, method, expected) in [
        (policy(), Method::GET, true),
        (policy().hedge(route::Hedge::Off), Method::GET, false),
        (policy().idempotent(false), Method::GET, false),
        (policy().idempotent(true), Method::POST, true),
        (
            policy().hedge(route::Hedge::After(MS * 2_000)),
            Method::GET,
            false,
        ),
    ] {
        let mut request = request(method);
        request.extensions_mut().insert(builder.build().unwrap());
        assert_eq!(hedged(&layer, request).await, expected);
    }
    // Without a single measurement, by the policy's own time.
    let measured = HedgeLayer::builder().build().unwrap();
    assert!(!hedged(&measured, request(Method::GET)).await);
    let mut request = request(Method::GET);
    let own = policy()
        .hedge(route::Hedge::After(MS * 50))
        .build()
        .unwrap();
    request.extensions_mut().insert(own);
    assert!(hedged(&measured, request).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_when_nobody_would_see_the_answer() {
    for (deadline, expected) in [(100, false), (101, true)] {
        let server = Server::new(&[(1_000, 200), (30, 200)]);
        let layer = after(100).build().unwrap();
        let service = TimeoutLayer::deadline(MS * deadline).layer(layer.layer(server.clone()));
        let response = service.oneshot(request(Method::GET)).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(server.seen().len() == 2, expected, "{deadline} ms");
        assert!(server.seen().iter().all(|it| it.dropped.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_or_still_on_its_way_is_not_hedged() {
    use http_body::Frame;
    use http_body_util::StreamBody;

    for (limit, expected) in [(3, false), (4, true)] {
        let layer = after(100).replay_limit(limit).build().unwrap();
        assert_eq!(hedged(&layer, request(Method::PUT)).await, expected);
    }
    for (pause, sent) in [(50, 2), (150, 1)] {
        let slow = futures_util::stream::once(async move {
            sleep(MS * pause).await;
            Ok::<_, Broke>(Frame::data(Bytes::from("late")))
        });
        let request = Request::put("/x").body(StreamBody::new(Box::pin(slow)));
        let server = Server::new(&[(1_000, 200), (30, 200)]);
        let layer = after(100).build().unwrap();
        let response = layer.layer(server.clone()).oneshot(request.unwrap()).await;
        assert_eq!(response.unwrap().status(), StatusCode::OK);
        let seen = server.seen();
        assert_eq!(seen.len(), sent, "after {pause} ms");
        assert!(seen.iter().all(|it| &*it.body == b"late"));
    }
}

#[tokio::test(start_paused = true)]
async fn inside_of_retry_each_attempt_may_be_hedged_from_one_budget_and_a_tier_in_front_forbids_both()
 {
    let budget = budget_of(5);
    let client = |server: &Server| {
        let hedge = after(100).shared_budget(Arc::clone(&budget));
        RetryLayer::builder()
            .backoff(ha_core::backoff::Backoff::new(
                Duration::ZERO,
                Duration::ZERO,
            ))
            .shared_budget(Arc::clone(&budget))
            .build()
            .unwrap()
            .layer(hedge.build().unwrap().layer(server.clone()))
    };
    // Both of the first attempt fail, the second attempt is late, its hedge answers.
    let server = Server::new(&[(110, 503), (20, 503), (1_000, 200), (5, 200)]);
    let response = client(&server).oneshot(request(Method::PUT)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let hedged = response.extensions().get::<Hedged>();
    assert_eq!(hedged, Some(&Hedged { sent: 1, winner: 1 }));
    let seen = server.seen();
    assert!(seen.iter().all(|it| &*it.body == b"body"), "{seen:?}");
    let tried: Vec<_> = seen.iter().map(|it| it.tried).collect();
    assert_eq!(tried, [Some(0), Some(1), Some(2), Some(3)]);
    let marked: Vec<_> = seen.iter().map(|it| it.marker.clone().unwrap()).collect();
    assert_eq!(marked, ["1", "2", "2", "3"]);
    let server = Server::new(&[(1_000, 503)]);
    let of_front = with(Method::GET, &[("x-retry-attempt", "2")]);
    let response = client(&server).oneshot(of_front).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(left(&budget), 2, "two hedges and one retry");
}

#[test]
fn failing_grpc_statuses_in_the_head_do_not_win() {
    for status in 0..=16u8 {
        let mut response = Response::new(());
        let value = http::HeaderValue::from(u16::from(status));
        response.headers_mut().insert("grpc-status", value);
        let fails = [1, 2, 4, 8, 13, 14, 15].contains(&status);
        let http = Http::default();
        let result: Result<_, &Broke> = Ok(&response);
        assert_eq!(http.is_success(result), !fails, "{status}");
    }
}
