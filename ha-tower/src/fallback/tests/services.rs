use super::*;
use crate::body::Replay;

/// Reads the body and answers with it, or fails with 502 after it has read so much of it.
async fn echo(request: Request<Replay<Body>>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = format!("{} {} {}", head.method, head.uri, body.len());
    Ok(Response::new(Full::from(text)))
}

async fn broken(request: Request<Replay<Body>>) -> Result<Response<Body>, Infallible> {
    let read = request
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .len();
    let mut response = response(502, "");
    response.headers_mut().insert("x-read", read.into());
    Ok(response)
}

fn request(method: Method, bytes: usize) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/a")
        .body(Full::from(vec![b'x'; bytes]))
        .unwrap()
}

#[tokio::test]
async fn another_service_gets_the_whole_request_although_the_first_has_read_it() {
    let layer = FallbackLayer::service(service_fn(echo)).build().unwrap();
    for (method, bytes) in [(Method::GET, 0), (Method::PUT, 1), (Method::PUT, 64 * 1024)] {
        let expected = format!("{method} /a {bytes}");
        let given = layer
            .layer(service_fn(broken))
            .oneshot(request(method, bytes))
            .await
            .unwrap();
        assert!(given.extensions().get::<FallbackUsed>().is_some());
        assert_eq!(text(given).await, expected);
    }
}

#[tokio::test]
async fn a_body_that_outgrew_what_is_kept_goes_nowhere_and_the_first_answer_is_passed_on() {
    let layer = FallbackLayer::service(service_fn(echo)).build().unwrap();
    let large = 64 * 1024 + 1;
    let given = layer
        .layer(service_fn(broken))
        .oneshot(request(Method::PUT, large))
        .await
        .unwrap();
    assert_eq!(given.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(given.headers()["x-read"], large.to_string());
    assert!(given.extensions().get::<FallbackFailed>().is_some());
}

#[tokio::test]
async fn a_post_that_the_first_service_has_seen_goes_to_no_other_unless_that_is_harmless() {
    for (any_method, status) in [(false, 502), (true, 200)] {
        let layer = FallbackLayer::service(service_fn(echo))
            .any_method(any_method)
            .build()
            .unwrap();
        let given = layer
            .layer(service_fn(broken))
            .oneshot(request(Method::POST, 3))
            .await
            .unwrap();
        assert_eq!(given.status(), status);
    }
}

#[tokio::test]
async fn a_post_that_was_never_sent_goes_to_the_other_service() {
    let breaker = BreakerLayer::http(breaker::Config::default()).unwrap();
    breaker.handle().force_open();
    let layer = FallbackLayer::service(service_fn(echo)).build().unwrap();
    let service = layer.layer(breaker.layer(service_fn(broken)));
    let given = service.oneshot(request(Method::POST, 3)).await.unwrap();
    assert_eq!(text(given).await, "POST /a 3");
}

#[tokio::test]
async fn the_other_service_is_asked_whether_it_is_ready() {
    let (mock, mut other) = tower_test::mock::pair::<Request<Replay<Body>>, Response<Body>>();
    other.allow(0);
    let layer = FallbackLayer::service(mock).build().unwrap();
    let call = layer
        .layer(service_fn(broken))
        .oneshot(request(Method::GET, 0));
    let mut call = Box::pin(call);
    for _ in 0..3 {
        assert!(futures_util::poll!(call.as_mut()).is_pending());
    }
    other.allow(1);
    let call = tokio::spawn(call);
    let (_, respond) = other.next_request().await.unwrap();
    respond.send_response(response(200, "other"));
    assert_eq!(text(call.await.unwrap().unwrap()).await, "other");
}

#[test]
fn keeping_more_than_64_mib_per_request_is_refused_by_name_and_value() {
    let error = FallbackLayer::service(service_fn(echo))
        .replay_limit(64 * 1024 * 1024 + 1)
        .build()
        .unwrap_err();
    assert_eq!(
        (error.field(), error.value()),
        ("fallback.replay_limit", "67108865")
    );
}
