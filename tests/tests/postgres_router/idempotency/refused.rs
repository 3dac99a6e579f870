//! What is refused, and leaves nothing.

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use ha_db::idempotency::IdempotencyLayer;

use super::app::{App, replayed, request, router, send, start, stored};

#[tokio::test]
async fn bad_keys_and_bodies_are_refused_before_anything_is_done() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let layer = IdempotencyLayer::builder(app.router.clone())
        .max_body(10)
        .build()
        .unwrap();
    let service = app.service_with(layer);
    let long = "k".repeat(256);
    for key in ["", "\"", "a b", "a,b", &long] {
        let response = send(&service, request("/notes", key, "a")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{key}");
    }
    let mut two = request("/notes", "a", "a");
    two.headers_mut()
        .append("idempotency-key", "b".parse().unwrap());
    assert_eq!(send(&service, two).await.status(), StatusCode::BAD_REQUEST);
    let mut binary = request("/notes", "a", "a");
    binary.headers_mut().insert(
        "idempotency-key",
        axum::http::HeaderValue::from_bytes(b"\xff").unwrap(),
    );
    assert_eq!(
        send(&service, binary).await.status(),
        StatusCode::BAD_REQUEST
    );

    let announced = request("/notes", "k", "eleven byte");
    assert_eq!(
        send(&service, announced).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let chunks =
        futures_util::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(Bytes::from("x"))));
    let streamed = request("/notes", "k", "").map(|_| Body::from_stream(chunks));
    assert_eq!(
        send(&service, streamed).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    let broken = request("/notes", "k", "").map(|_| Body::from_stream(broken));
    assert_eq!(
        send(&service, broken).await.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!((app.runs(), stored(&cluster, 0).await), (0, 0));

    // Without a key, or with a method that is safe, the layer is not there.
    let mut keyless = request("/notes", "k", "far more than ten bytes");
    keyless.headers_mut().remove("idempotency-key");
    assert_eq!(send(&service, keyless).await.status(), 201);
    for _ in 0..2 {
        let mut get = request("/notes", "k", "get");
        *get.method_mut() = axum::http::Method::GET;
        assert!(!replayed(&send(&service, get).await));
    }
    assert_eq!((app.runs(), stored(&cluster, 0).await), (3, 0));
}

#[tokio::test]
async fn a_missing_causal_layer_is_named_and_nothing_is_done() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app
        .routes()
        .layer(IdempotencyLayer::new(app.router.clone()));
    for with_key in [true, false] {
        let mut bad = request("/notes", "k", "a");
        if !with_key {
            bad.headers_mut().remove("idempotency-key");
        }
        let response = send(&service, bad).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        // The layer's own refusal, and without a key that of the extractor.
        let asks = if with_key {
            "IdempotencyLayer needs CausalLayer"
        } else {
            "Db extractor needs CausalLayer"
        };
        let body = String::from_utf8_lossy(response.body());
        assert!(body.contains(asks), "{body}");
    }
    assert_eq!(app.runs(), 0);
}
