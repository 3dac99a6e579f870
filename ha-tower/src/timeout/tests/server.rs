use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::body::Buffered;
use crate::problem::LocalReply;
use crate::timeout::{Deadline, DeadlineLayer, TimeoutLayer};

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn request(headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut builder = Request::get("/");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Empty::new()).unwrap()
}

/// Answers with the time that it sees left, after `wait`, and counts how often it was called.
fn tells_rest(
    wait: Duration,
    calls: &Arc<AtomicUsize>,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone {
    let calls = Arc::clone(calls);
    service_fn(move |request: Request<Empty<Bytes>>| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            let deadline = *request.extensions().get::<Deadline>().unwrap();
            let rest = deadline.remaining(Instant::now()).as_millis();
            tokio::time::sleep(wait).await;
            Ok(Response::new(Full::from(rest.to_string())))
        }
    })
}

async fn seen(layer: DeadlineLayer, headers: &[(&str, &str)]) -> Result<String, StatusCode> {
    let calls = Arc::default();
    let service = layer.layer(tells_rest(Duration::ZERO, &calls));
    let response = service.oneshot(request(headers)).await.unwrap();
    let status = response.status();
    assert_eq!(
        calls.load(Ordering::Relaxed),
        usize::from(status.is_success())
    );
    if !status.is_success() {
        return Err(status);
    }
    Ok(text(response).await)
}

async fn text(response: Response<Buffered<Full<Bytes>>>) -> String {
    use http_body_util::BodyExt as _;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_told_counts_up_to_the_maximum_and_garbage_counts_as_nothing() {
    let layer = DeadlineLayer::builder()
        .minimum(Duration::from_millis(10))
        .maximum(Duration::from_secs(5))
        .without_header(Duration::from_secs(2))
        .build()
        .unwrap();
    let refused = Err(StatusCode::GATEWAY_TIMEOUT);
    let left = |ms: &str| Ok(ms.to_owned());
    for (value, expected) in [
        ("250", left("250")),
        ("10", left("10")),
        ("9", refused.clone()),
        ("0", refused),
        ("5000", left("5000")),
        ("5001", left("5000")),
        ("18446744073709551616", left("5000")),
        ("soon", left("2000")),
        ("-1", left("2000")),
        ("", left("2000")),
    ] {
        let headers = [("x-ha-timeout-ms", value)];
        assert_eq!(seen(layer, &headers).await, expected, "{value:?}");
    }
    assert_eq!(seen(layer, &[]).await, left("2000"));
    for (value, expected) in [("3S", "3000"), ("99999999H", "5000"), ("1s", "2000")] {
        let headers = [GRPC, ("grpc-timeout", value)];
        assert_eq!(seen(layer, &headers).await, left(expected), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_work_ends_when_the_caller_goes() {
    let calls = Arc::default();
    let service = DeadlineLayer::server().layer(tells_rest(Duration::from_secs(60), &calls));
    let started = Instant::now();
    let request = request(&[("x-ha-timeout-ms", "250")]);
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(response.extensions().get::<LocalReply>().is_some());
    assert_eq!(started.elapsed(), Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_gets_deadline_exceeded_as_trailers_only() {
    for timeout in ["0n", "250m"] {
        let calls = Arc::default();
        let service = DeadlineLayer::server().layer(tells_rest(Duration::from_secs(60), &calls));
        let request = request(&[GRPC, ("grpc-timeout", timeout)]);
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "4");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(response.body().is_end_stream(), "head and trailers in one");
        assert!(response.extensions().get::<LocalReply>().is_some());
        assert_eq!(calls.load(Ordering::Relaxed), usize::from(timeout != "0n"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_further_out_wins_and_is_refused_when_it_is_too_near() {
    for (outer, expected) in [(100, StatusCode::OK), (0, StatusCode::GATEWAY_TIMEOUT)] {
        let calls = Arc::default();
        let service = TimeoutLayer::deadline(Duration::from_millis(outer))
            .layer(DeadlineLayer::server().layer(tells_rest(Duration::ZERO, &calls)));
        let request = request(&[("x-ha-timeout-ms", "5000")]);
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected, "{outer} ms");
    }
}

#[test]
fn senseless_numbers_are_refused_by_name_and_value() {
    let ms = Duration::from_millis;
    let builder = DeadlineLayer::builder;
    for (builder, message) in [
        (
            builder().minimum(ms(0)),
            "deadline.minimum is 0ns: must be longer than zero",
        ),
        (
            builder().maximum(ms(0)),
            "deadline.maximum is 0ns: must be longer than zero",
        ),
        (
            builder().maximum(Duration::MAX),
            "deadline.maximum is 18446744073709551615.999999999s: must not be longer than a day",
        ),
        (
            builder().minimum(ms(20)).maximum(ms(10)),
            "deadline.minimum is 20ms: must not be longer than deadline.maximum",
        ),
        (
            builder().without_header(ms(0)),
            "deadline.without_header is 0ns: must be longer than zero",
        ),
        (
            builder().maximum(ms(10)).without_header(ms(11)),
            "deadline.without_header is 11ms: must be from deadline.minimum to deadline.maximum",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
    let _ = builder().build().unwrap();
}
