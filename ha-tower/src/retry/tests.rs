//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_core::backoff::Backoff;
use ha_core::budget::{self, Budget};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::body::{BoxError, Replay, ReplayError};
use crate::problem::{LocalReply, Problem};
use crate::timeout::TimeoutLayer;
use crate::tried::Tried;

type Seen = Arc<Mutex<Vec<(Request<()>, Bytes)>>>;

#[derive(Debug, thiserror::Error)]
#[error("exchange broke")]
struct Broke;

/// What the server does, one entry per attempt; afterwards it answers 200.
enum Act {
    Status(u16),
    After(&'static str),
    Local,
    Break,
    Truncated,
    Stalled,
}

/// A body of `announced` bytes made from scripted frames; `None` never comes.
struct Script {
    announced: u64,
    frames: VecDeque<Option<Result<Bytes, Broke>>>,
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        match self.frames.pop_front() {
            None => Poll::Ready(None),
            Some(None) => {
                self.frames.push_front(None);
                Poll::Pending
            }
            Some(Some(frame)) => Poll::Ready(Some(frame.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

fn script(frames: impl IntoIterator<Item = Option<Result<&'static str, Broke>>>) -> Script {
    let frames = frames
        .into_iter()
        .map(|frame| frame.map(|frame| frame.map(Bytes::from)));
    Script {
        announced: 4,
        frames: frames.collect(),
    }
}

fn server<B>(
    acts: impl IntoIterator<Item = Act>,
) -> (
    impl Service<Request<B>, Response = Response<Script>, Error = Broke, Future: Send> + Clone,
    Seen,
)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Debug,
{
    let seen = Seen::default();
    let acts: Arc<Mutex<VecDeque<Act>>> = Arc::new(Mutex::new(acts.into_iter().collect()));
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Request<B>| {
        let act = acts.lock().unwrap().pop_front();
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            log.lock()
                .unwrap()
                .push((Request::from_parts(head, ()), body));
            let mut response = Response::new(script([Some(Ok("fine"))]));
            match act {
                None => {}
                Some(Act::Status(status)) => {
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                }
                Some(Act::After(wait)) => {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    response
                        .headers_mut()
                        .insert("retry-after", wait.parse().unwrap());
                }
                Some(Act::Local) => {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    response.extensions_mut().insert(LocalReply);
                }
                Some(Act::Break) => return Err(Broke),
                Some(Act::Truncated) => {
                    *response.body_mut() = script([Some(Ok("fi")), Some(Err(Broke))])
                }
                Some(Act::Stalled) => *response.body_mut() = script([Some(Ok("fi")), None]),
            }
            Ok(response)
        }
    });
    (service, seen)
}

fn request(method: Method) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri("/x")
        .body(Full::from("body"))
        .unwrap()
}

async fn attempts_of(
    layer: RetryLayer,
    request: Request<Full<Bytes>>,
    acts: Vec<Act>,
) -> (usize, Option<StatusCode>) {
    let (service, seen) = server(acts);
    let status = layer
        .layer(service)
        .oneshot(request)
        .await
        .ok()
        .map(|response| response.status());
    let seen = seen.lock().unwrap();
    for (_, body) in seen.iter() {
        assert_eq!(body, "body", "every attempt sends the whole body");
    }
    (seen.len(), status)
}

const OK: Option<StatusCode> = Some(StatusCode::OK);
const UNAVAILABLE: Option<StatusCode> = Some(StatusCode::SERVICE_UNAVAILABLE);

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
    let opted_in = || RetryLayer::http().idempotency_key(true);
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
    for none in [0, 1] {
        assert_eq!(
            attempts_of(
                RetryLayer::http().attempts(none),
                request(Method::GET),
                acts()
            )
            .await,
            (1, None)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_marked_counted_and_share_one_list_of_tried_endpoints() {
    let (service, seen) = server([Act::Status(503), Act::Break]);
    let layer = RetryLayer::http().attempts_header(HeaderName::from_static("x-attempts"));
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

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_within_cap_and_deadline() {
    let started = Instant::now();
    assert_eq!(
        attempts_of(
            RetryLayer::http(),
            request(Method::GET),
            vec![Act::After("3")]
        )
        .await,
        (2, OK)
    );
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_secs(3) && waited <= Duration::from_millis(3_026),
        "{waited:?}"
    );
    assert_eq!(
        attempts_of(
            RetryLayer::http(),
            request(Method::GET),
            vec![Act::After("6")]
        )
        .await,
        (1, UNAVAILABLE)
    );

    let (service, seen) = server([Act::After("3")]);
    let started = Instant::now();
    let service =
        TimeoutLayer::deadline(Duration::from_secs(2)).layer(RetryLayer::http().layer(service));
    let response = service.oneshot(request(Method::GET)).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (503, 1)
    );
    assert_eq!(
        started.elapsed(),
        Duration::ZERO,
        "the answer is known: waiting for the deadline would help nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_amplified_by_the_budget_and_no_more() {
    let config = budget::Config {
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let total = async |layer: RetryLayer| {
        let (service, seen) = server((0..10_000).map(|_| Act::Status(503)));
        for _ in 0..1_000 {
            let _ = layer
                .layer(service.clone())
                .oneshot(request(Method::GET))
                .await;
        }
        seen.lock().unwrap().len()
    };
    let fast = || RetryLayer::http().backoff(Backoff::new(Duration::ZERO, Duration::ZERO));
    let budget = Arc::new(Budget::new(config, Instant::now().into_std()).unwrap());
    assert_eq!(total(fast().budget(budget)).await, 1_200);
    // The negative control: attempts alone, with a budget that never says no, treble the load.
    let naive = budget::Config {
        retry_ratio: 1.0,
        reserve_per_second: 1e9,
        ..config
    };
    let naive = Arc::new(Budget::new(naive, Instant::now().into_std()).unwrap());
    assert_eq!(total(fast().budget(naive)).await, 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_limit_is_sent_once() {
    let (service, seen) = server([Act::Status(503)]);
    let large = Request::put("/x")
        .body(Full::from(vec![0; 64 * 1024 + 1]))
        .unwrap();
    let response = RetryLayer::http()
        .layer(service.clone())
        .oneshot(large)
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (503, 1)
    );

    let (service, seen) = server([Act::Status(503)]);
    let fits = Request::put("/x")
        .body(Full::from(vec![0; 64 * 1024]))
        .unwrap();
    let response = RetryLayer::http()
        .layer(service)
        .oneshot(fits)
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (200, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_retried_any_more_breaks_as_it_did() {
    let (service, _) = server([Act::Truncated, Act::Truncated, Act::Truncated]);
    let response = RetryLayer::http()
        .layer(service)
        .oneshot(request(Method::GET))
        .await
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "fi"
    );
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_a_post_or_when_switched_off() {
    for (layer, method) in [
        (RetryLayer::http(), Method::POST),
        (RetryLayer::http().hold_small_responses(0), Method::GET),
    ] {
        let (service, seen) = server([Act::Truncated]);
        let response = layer.layer(service).oneshot(request(method)).await.unwrap();
        assert!(response.collect().await.is_err());
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_together_do_not_wait_alike() {
    let mut waits = std::collections::HashSet::new();
    let layer = RetryLayer::http();
    for _ in 0..20 {
        let (service, _) = server([Act::Break]);
        let started = Instant::now();
        let _ = layer.layer(service).oneshot(request(Method::GET)).await;
        waits.insert(started.elapsed());
    }
    assert!(
        waits.len() > 5,
        "paused time has a grain of 1 ms: {waits:?}"
    );
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

/// Dropped after every possible number of polls: no panic, no attempt afterwards.
#[tokio::test(start_paused = true)]
async fn cancelling_at_any_await_point_makes_no_further_attempt() {
    for polls in 0..40 {
        let (service, seen) = server([Act::Status(503), Act::Stalled, Act::Break]);
        let mut future = Box::pin(
            RetryLayer::http()
                .layer(service)
                .oneshot(request(Method::GET)),
        );
        let mut finished = false;
        for _ in 0..polls {
            let done =
                std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
            if done {
                finished = true;
                break;
            }
            tokio::time::advance(Duration::from_millis(60)).await;
        }
        drop(future);
        let before = seen.lock().unwrap().len();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(seen.lock().unwrap().len(), before);
        if finished {
            assert_eq!(before, 3);
            return;
        }
    }
    panic!("never finished");
}

/// A body whose chunks are sent by the test.
fn channel() -> (
    tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>,
    impl Body<Data = Bytes, Error = Infallible> + Unpin + Send,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let frames =
        futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, http_body_util::StreamBody::new(frames))
}

#[tokio::test(start_paused = true)]
async fn a_body_still_streaming_is_taken_over_from_an_early_503() {
    let (sender, body) = channel();
    sender.send(Frame::data("one ".into())).unwrap();
    type Old =
        Arc<Mutex<Vec<Replay<Box<dyn Body<Data = Bytes, Error = Infallible> + Unpin + Send>>>>>;
    let old = Old::default();
    let keep = Arc::clone(&old);
    let service = service_fn(move |request: Request<Replay<_>>| {
        let keep = Arc::clone(&keep);
        async move {
            let mut body = request.into_body();
            if keep.lock().unwrap().is_empty() {
                // Answers early, as servers that shed load do, while the client is still sending.
                assert_eq!(
                    body.frame().await.unwrap().unwrap().into_data().unwrap(),
                    "one "
                );
                keep.lock().unwrap().push(body);
                return Ok::<_, Infallible>(
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE).into_response(),
                );
            }
            let collected = body.collect().await.unwrap();
            let trailer = collected.trailers().unwrap()["x-sum"].clone();
            assert_eq!(trailer, "7");
            Ok(Response::new(Full::from(collected.to_bytes())))
        }
    })
    .map_response(|mut response: Response<Full<Bytes>>| {
        response.extensions_mut().remove::<LocalReply>();
        response
    });
    let request = Request::put("/x").body(Box::new(body) as Box<_>).unwrap();
    let answer = tokio::spawn(RetryLayer::http().layer(service).oneshot(request));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut revoked = old.lock().unwrap().pop().unwrap();
    assert!(matches!(
        revoked.frame().await,
        Some(Err(ReplayError::Revoked))
    ));
    old.lock().unwrap().push(revoked);
    sender.send(Frame::data("two".into())).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let response = answer.await.unwrap().unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "one two"
    );
}

#[tokio::test]
async fn a_reader_that_sleeps_is_woken_when_it_is_revoked() {
    let (_sender, body) = channel();
    let (mut first, handle) = Replay::new(body, 1024);
    let waiting = tokio::spawn(async move { first.frame().await.unwrap().unwrap_err() });
    tokio::task::yield_now().await;
    let _second = handle.restart().unwrap();
    assert!(matches!(waiting.await.unwrap(), ReplayError::Revoked));
}

#[tokio::test]
async fn trailers_and_lengths_are_the_same_for_every_reader() {
    let (sender, body) = channel();
    sender.send(Frame::data("abc".into())).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-t", "1".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let (mut body, handle) = Replay::new(body, 1024);
    for _ in 0..3 {
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-t"], "1");
        assert_eq!(collected.to_bytes(), "abc");
        body = handle.restart().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
    }
}

#[tokio::test]
async fn a_body_of_the_caller_that_breaks_is_nobodys_to_replay() {
    let frames = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("a"))),
        Err(BoxError::from("gone")),
    ]);
    let (body, handle) = Replay::new(http_body_util::StreamBody::new(frames), 1024);
    assert!(matches!(body.collect().await, Err(ReplayError::Body(_))));
    assert!(handle.restart().is_none());
}

#[tokio::test]
async fn an_empty_body_stays_empty_for_every_attempt() {
    let (body, handle) = Replay::new(Empty::<Bytes>::new(), 0);
    assert!(body.is_end_stream() && handle.restart().unwrap().is_end_stream());
}
