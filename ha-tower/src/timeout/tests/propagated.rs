use std::convert::Infallible;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::body::Buffered;
use crate::timeout::{PropagateLayer, TimeoutLayer, limit_attempt};

type Body = http_body_util::Empty<bytes::Bytes>;

/// A client that gives back the headers it was given.
fn client()
-> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone
{
    service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(Body::new());
        *response.headers_mut() = request.into_parts().0.headers;
        Ok(response)
    })
}

/// What leaves 300 ms after the call, of a second in all.
async fn leaving(timeout: TimeoutLayer, headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let client = PropagateLayer.layer(client());
    let late = service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            sleep(Duration::from_millis(300)).await;
            client.oneshot(request).await
        }
    });
    let mut request = Request::new(Body::new());
    for (name, value) in headers {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(*name, value);
    }
    let response: Response<Buffered<Body>> = timeout.layer(late).oneshot(request).await.unwrap();
    response.headers().clone()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_is_left_when_the_attempt_leaves_is_told_and_never_more_than_was_told_here() {
    for (own, told) in [
        (None, "700"),
        (Some("100"), "100"),
        (Some("5000"), "700"),
        (Some("garbage"), "700"),
    ] {
        let headers: Vec<_> = own
            .map(|own| ("x-ha-timeout-ms", own))
            .into_iter()
            .collect();
        let left = leaving(TimeoutLayer::deadline(SECOND), &headers).await;
        assert_eq!(left["x-ha-timeout-ms"], told, "{own:?}");
        assert!(!left.contains_key("grpc-timeout"));
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_is_told_in_its_own_way_and_a_stale_other_one_is_made_true() {
    let grpc = ("content-type", "application/grpc+proto");
    let timeout = TimeoutLayer::deadline(SECOND);
    let left = leaving(timeout, &[grpc]).await;
    assert_eq!(left["grpc-timeout"], "700000u");
    assert!(!left.contains_key("x-ha-timeout-ms"));
    let left = leaving(timeout, &[grpc, ("grpc-timeout", "50m")]).await;
    assert_eq!(left["grpc-timeout"], "50000000n");
    let left = leaving(timeout, &[grpc, ("x-ha-timeout-ms", "1000")]).await;
    assert_eq!(left["x-ha-timeout-ms"], "700");
    assert_eq!(left["grpc-timeout"], "700000u");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_without_a_deadline_or_when_it_stays_at_home() {
    let silent = TimeoutLayer::deadline(SECOND).propagate(false);
    for headers in [&[][..], &[("x-ha-timeout-ms", "5"), ("grpc-timeout", "5m")]] {
        let left = leaving(silent, headers).await;
        assert!(left.is_empty(), "{left:?}");
    }
    let request = Request::new(Body::new());
    let response = PropagateLayer
        .layer(client())
        .oneshot(request)
        .await
        .unwrap();
    assert!(response.headers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_tells_its_own_limit_when_that_is_shorter() {
    for (limit, told) in [(200, "200"), (5_000, "1000")] {
        let client = PropagateLayer.layer(client());
        let attempt = service_fn(move |mut request: Request<Body>| {
            limit_attempt(&mut request, Duration::from_millis(limit));
            client.clone().oneshot(request)
        });
        let layer = TimeoutLayer::deadline(SECOND);
        let response = layer
            .layer(attempt)
            .oneshot(Request::new(Body::new()))
            .await;
        assert_eq!(response.unwrap().headers()["x-ha-timeout-ms"], told);
    }
    let mut request = Request::new(Body::new());
    limit_attempt(&mut request, SECOND);
    assert!(request.extensions().is_empty(), "no deadline, none made");
}
