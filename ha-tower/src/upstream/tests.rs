//! The metrics of an upstream, on real sockets.

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use metrics::set_default_local_recorder;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::*;
use crate::recorded::Recorded;
use crate::task::Owned;
use crate::{discover, health};

/// An app on an ephemeral port that ends with the task.
async fn app() -> (String, Owned) {
    let router = Router::new()
        .route("/", get(|| async { "well" }))
        .route("/fails", get(|| async { StatusCode::BAD_GATEWAY }))
        .route("/hangs", get(pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Owned::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (addr.to_string(), serve)
}

async fn call(upstream: &Upstream, path: &str) -> Result<Response<Body>, Error> {
    let request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
    upstream.clone().oneshot(request).await
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn attempts_and_connections_are_counted_under_the_documented_names_and_labels() {
    let kept = Recorded::default();
    let _guard = set_default_local_recorder(&kept);
    let (addr, _app) = app().await;
    let upstream = Upstream::builder("shop")
        .discover(discover::fixed([format!("http://{addr}")]).unwrap())
        .attempt_timeout(Duration::from_secs(1))
        .connections(Connections::default().max(1))
        .build()
        .unwrap();
    let labels = format!("{{endpoint={addr},upstream=shop}}");
    let gauge = |name: &str| kept.gauge(&format!("ha_upstream_{name}{labels}")).unwrap();

    let well = call(&upstream, "/").await.unwrap();
    assert_eq!((gauge("in_flight"), gauge("connections")), (1.0, 1.0));
    well.into_body().collect().await.unwrap();
    assert_eq!(gauge("in_flight"), 0.0);
    let failed = call(&upstream, "/fails").await.unwrap();
    failed.into_body().collect().await.unwrap();

    let hangs = upstream.clone();
    let hangs = tokio::spawn(async move { call(&hangs, "/hangs").await });
    eventually("it is under way", || gauge("in_flight") == 1.0).await;
    let mut waits = Box::pin(call(&upstream, "/"));
    assert!(futures_util::poll!(&mut waits).is_pending());
    assert_eq!((gauge("in_flight"), gauge("pending")), (2.0, 1.0));
    drop(waits);
    assert_eq!((gauge("in_flight"), gauge("pending")), (1.0, 0.0));
    assert!(hangs.await.unwrap().unwrap_err().is_timeout());
    eventually("the connection that hung is closed", || {
        gauge("connections") == 0.0
    })
    .await;
    let heads = kept.samples(&format!("ha_upstream_head_seconds{labels}"));
    assert_eq!(heads.unwrap().len(), 2, "two heads came");

    let attempts = |outcome: &str| {
        format!("ha_upstream_attempts_total{{endpoint={addr},outcome={outcome},upstream=shop}}")
    };
    let counted = [
        (
            "ha_discover_events_total{event=updated,upstream=shop}".to_owned(),
            1,
        ),
        (attempts("2xx"), 1),
        (attempts("5xx"), 1),
        (attempts("cancelled"), 1),
        (attempts("timeout"), 1),
        (format!("ha_upstream_connections_opened_total{labels}"), 1),
    ];
    assert_eq!(kept.counters(), counted);
}

#[tokio::test]
async fn checks_and_requests_without_an_endpoint_are_counted() {
    let kept = Recorded::default();
    let _guard = set_default_local_recorder(&kept);
    let (addr, _app) = app().await;
    let upstream = Upstream::builder("shop")
        .discover(discover::fixed([format!("http://{addr}")]).unwrap())
        .health(health::Http::get("/fails").start(health::Start::FirstPass))
        .build()
        .unwrap();
    assert!(call(&upstream, "/").await.unwrap_err().is_unavailable());
    let counter = |name: String, n| kept.counters().contains(&(name, n));
    assert!(counter(
        "ha_upstream_unavailable_total{upstream=shop}".into(),
        1
    ));
    eventually("a check has failed", || {
        let name = format!("ha_health_checks_total{{endpoint={addr},result=failed,upstream=shop}}");
        counter(name, 1)
    })
    .await;
}
