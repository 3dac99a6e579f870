use ::http::{Request, Response, StatusCode};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http_body_util::BodyExt as _;
use tokio::time::advance;

use super::*;
use crate::problem::{LocalReply, Problem};

async fn ask(app: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

/// Two routes that each have the layer, and one that fails.
fn app(layer: HttpBreakerLayer) -> Router {
    Router::new()
        .route("/good", get(|| async { "answer" }).layer(layer.clone()))
        .route(
            "/bad",
            get(|| async { StatusCode::INTERNAL_SERVER_ERROR }).layer(layer),
        )
}

#[tokio::test(start_paused = true)]
async fn in_a_router_it_opens_on_5xx_and_answers_503_by_itself_on_every_route() {
    let layer = BreakerLayer::http(Config::default()).unwrap();
    let handle = layer.handle();
    let app = app(layer);
    for _ in 0..5 {
        assert_eq!(ask(&app, "/bad").await.status(), 500);
    }
    let response = ask(&app, "/good").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((5..=8).contains(&wait), "{wait}");
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert!(response.extensions().get::<LocalReply>().is_some());
    let open = *response.extensions().get::<Open>().unwrap();
    assert!(open.retry_in.unwrap() <= Duration::from_secs(wait));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["status"], 503);

    advance(10 * SEC).await;
    for _ in 0..2 {
        let response = ask(&app, "/good").await;
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "answer");
    }
    assert_eq!(handle.snapshot().state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_knows_how_long_it_says_one_second() {
    let layer = BreakerLayer::http(Config::default()).unwrap();
    layer.handle().force_open();
    let response = ask(&app(layer), "/good").await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.extensions().get(), Some(&Open { retry_in: None }));
}

#[tokio::test(start_paused = true)]
async fn the_answer_can_be_another_one() {
    let layer = BreakerLayer::http(Config::default())
        .unwrap()
        .answer(|_| Problem::new(StatusCode::BAD_GATEWAY).detail("try the other shop"));
    layer.handle().force_open();
    let response = ask(&app(layer), "/good").await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(response.extensions().get::<Open>().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_one_further_in_does_not_open_one_further_out() {
    let inner = BreakerLayer::http(Config::default()).unwrap();
    let outer = BreakerLayer::http(Config::default()).unwrap();
    inner.handle().force_open();
    let handle = outer.handle();
    let app = Router::new()
        .route("/", get(|| async {}))
        .layer(inner)
        .layer(outer);
    for _ in 0..200 {
        assert_eq!(ask(&app, "/").await.status(), 503);
    }
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.state, snapshot.calls), (State::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_gives_its_probe_back() {
    let layer = BreakerLayer::http(Config::default()).unwrap();
    let handle = layer.handle();
    let slow = get(|| async {
        tokio::time::sleep(SEC).await;
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let app = Router::new().route("/", slow.layer(layer));
    for _ in 0..5 {
        ask(&app, "/").await;
    }
    advance(10 * SEC).await;
    tokio::time::timeout(SEC / 2, ask(&app, "/"))
        .await
        .unwrap_err();
    assert_eq!(handle.snapshot().state, State::HalfOpen);
    assert_eq!(ask(&app, "/").await.status(), 500, "the next probe");
}
