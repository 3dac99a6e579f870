//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;

fn answering<R: Clone>(
    response: Response<R>,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<R>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<R>, Infallible>>,
> + Clone {
    service_fn(move |_: Request<Empty<Bytes>>| std::future::ready(Ok(response.clone())))
}

fn whole() -> Response<Full<Bytes>> {
    Response::new(Full::from("whole"))
}

fn request(version: Version) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.version_mut() = version;
    request
}

fn get() -> Request<Empty<Bytes>> {
    request(Version::HTTP_11)
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_until_its_body_has_ended() {
    let drain = Drain::new();
    let service = drain.layer().layer(answering(whole()));
    let mut body = service.oneshot(get()).await.unwrap().into_body();
    assert_eq!(drain.in_flight(), 1);
    body.frame().await.unwrap().unwrap();
    assert_eq!(drain.in_flight(), 1);
    assert!(body.frame().await.is_none());
    assert_eq!(drain.in_flight(), 0, "although the body still exists");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_until_its_body_fails_or_is_dropped() {
    let drain = Drain::new();
    let failing = service_fn(|_: Request<Empty<Bytes>>| async {
        let frames = [Ok(Frame::data(Bytes::from("a"))), Err("broke")];
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames))))
    });
    let service = drain.layer().layer(failing);
    let mut body = service.clone().oneshot(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(drain.in_flight(), 1);
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(drain.in_flight(), 0);

    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(drain.in_flight(), 1);
    drop(response);
    assert_eq!(drain.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_and_a_failed_response_are_not_in_flight() {
    let drain = Drain::new();
    let empty = drain
        .layer()
        .layer(answering(Response::new(Empty::<Bytes>::new())));
    let _response = empty.oneshot(get()).await.unwrap();
    assert_eq!(drain.in_flight(), 0);

    let failing = service_fn(|_: Request<Empty<Bytes>>| async {
        Err::<Response<Empty<Bytes>>, _>("refused")
    });
    let mut future = std::pin::pin!(drain.layer().layer(failing).call(get()));
    assert_eq!(drain.in_flight(), 1);
    assert!(future.as_mut().await.is_err());
    assert_eq!(drain.in_flight(), 0, "although the future still exists");
}

#[tokio::test(start_paused = true)]
async fn two_layers_of_one_drain_count_once_and_layers_of_two_count_in_both() {
    let (outer, inner) = (Drain::new(), Drain::new());
    let once = outer.layer().layer(outer.layer().layer(answering(whole())));
    let response = once.oneshot(get()).await.unwrap();
    assert_eq!(outer.in_flight(), 1);
    drop(response);

    let both = outer.layer().layer(inner.layer().layer(answering(whole())));
    let response = both.oneshot(get()).await.unwrap();
    assert_eq!((outer.in_flight(), inner.in_flight()), (1, 1));
    drop(response);
    assert_eq!((outer.in_flight(), inner.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_response_says_that_a_drain_has_started_and_http_1_connections_are_closed() {
    let mut switching = whole();
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let (v1, v2) = (Version::HTTP_11, Version::HTTP_2);
    for (started, version, response, closed) in [
        (false, v1, whole(), false),
        (true, v1, whole(), true),
        (true, Version::HTTP_10, whole(), true),
        (true, v2, whole(), false),
        (true, v1, switching, false),
    ] {
        let drain = Drain::new();
        if started {
            assert!(drain.start() && !drain.start());
        }
        let service = drain.layer().layer(answering(response));
        let response = service.oneshot(request(version)).await.unwrap();
        let close = response.headers().get("connection");
        assert_eq!(
            close.is_some_and(|value| value == "close"),
            closed,
            "{version:?}"
        );
        assert_eq!(crate::health::is_draining(response.headers()), started);
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_is_woken_once_by_the_last_request_and_by_no_other() {
    let drain = Drain::new();
    let service = drain.layer().layer(answering(whole()));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(service.clone().oneshot(get()).await.unwrap());
    }
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut idle = std::pin::pin!(drain.idle());
    assert!(idle.as_mut().poll(&mut cx).is_pending());
    for expected in [0, 0, 1] {
        bodies.pop();
        assert_eq!(wakes.0.load(Ordering::Relaxed), expected);
    }
    assert_eq!(idle.as_mut().poll(&mut cx), Poll::Ready(()));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_reports_what_was_cut() {
    let drain = Drain::builder()
        .settle(Duration::from_secs(1))
        .deadline(Duration::from_secs(3))
        .build()
        .unwrap();
    let service = drain.layer().layer(answering(whole()));
    let _cut = service.clone().oneshot(get()).await.unwrap();
    let finished = service.oneshot(get()).await.unwrap();
    let endless = Box::pin(std::future::pending::<Result<(), Infallible>>());
    let enforced = drain.enforce(endless);
    let started = tokio::time::Instant::now();
    drain.start();
    drop(finished);
    let report = enforced.await.unwrap();
    assert_eq!((report.requests_cut, report.connections_cut), (1, 0));
    assert!(!report.is_clean());
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn the_phases_are_reached_in_time_and_readyz_says_no_from_the_start() {
    let drain = Drain::new();
    assert_eq!(
        (drain.phase(), drain.readyz()),
        (Phase::Serving, StatusCode::OK)
    );
    let started = tokio::time::Instant::now();
    drain.start();
    assert_eq!(drain.readyz(), StatusCode::SERVICE_UNAVAILABLE);
    for (phase, seconds) in [
        (Phase::NotReady, 0),
        (Phase::Refusing, 5),
        (Phase::Deadline, 25),
    ] {
        drain.reached(phase).await;
        assert_eq!(drain.phase(), phase);
        assert_eq!(started.elapsed(), Duration::from_secs(seconds));
    }
}

#[test]
fn a_server_that_would_serve_nobody_is_refused_by_value() {
    let builder = Server::builder(Drain::new()).header_read_timeout(Duration::ZERO);
    assert_eq!(
        builder.build().unwrap_err().to_string(),
        "server.header_read_timeout is 0ns: must be longer than zero"
    );
}
