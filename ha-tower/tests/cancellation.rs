//! Every future of these modules, dropped at each of its await points: nothing may be left behind.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use ha_core::backoff::Backoff;
use ha_core::budget::{self, Budget};
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::{RetryLayer, generic};
use ha_tower::timeout::TimeoutLayer;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

/// More than any await point here needs; with paused time it costs nothing.
const LIMIT: Duration = Duration::from_secs(60);

/// Polls `future` whenever it is woken, drops it once it has been pending `times` times, and says whether it ended.
async fn dropped_after<F: Future>(times: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut pending = 0;
    let polled = poll_fn(|cx| {
        if pending == times {
            return Poll::Ready(false);
        }
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        pending += 1;
        if pending == times {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    });
    timeout(LIMIT, polled).await.expect("it is woken again")
}

/// Runs `case` with 0, 1, 2, … polls until its future ends, and says how many that took. The case makes its future, hands
/// it to [`dropped_after`], checks what is left and returns whether the future had ended.
async fn at_each_await_point(mut case: impl AsyncFnMut(usize) -> bool) -> usize {
    for polls in 0..100 {
        if case(polls).await {
            return polls;
        }
    }
    panic!("it never ends");
}

/// Counts the calls that are under way.
#[derive(Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

struct Call(Arc<AtomicUsize>);

impl UnderWay {
    fn enter(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(&self.0))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers `status` after a second; the second attempt and later ones are counted in `retries`.
fn slow<B>(
    under_way: &UnderWay,
    status: StatusCode,
    attempts: &Arc<AtomicUsize>,
) -> impl Service<
    Request<B>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Full<Bytes>>, Infallible>>,
> + Clone
+ use<B> {
    let (under_way, attempts) = (under_way.clone(), Arc::clone(attempts));
    service_fn(move |request: Request<B>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let call = under_way.enter();
        async move {
            let _held = (call, request);
            sleep(Duration::from_secs(1)).await;
            let mut response = Response::new(Full::from("answer"));
            *response.status_mut() = status;
            Ok(response)
        }
    })
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("/")
        .header("host", "x")
        .body(Empty::new())
        .unwrap()
}

/// What is left in a budget that had `of` retries and no requests.
fn left(budget: &Budget, of: usize) -> usize {
    let now = Instant::now().into_std();
    (0..of).take_while(|_| budget.withdraw(now)).count()
}

#[tokio::test(start_paused = true)]
async fn a_dropped_retry_ends_its_attempt_and_pays_only_for_what_was_sent() {
    let polls = at_each_await_point(async |polls| {
        let (under_way, attempts) = (UnderWay::default(), Arc::default());
        let config = budget::Config {
            retry_ratio: 0.0,
            ..budget::Config::default()
        };
        let budget = Arc::new(Budget::new(config, Instant::now().into_std()).unwrap());
        let second = Duration::from_secs(1);
        let layer = RetryLayer::builder()
            .backoff(Backoff::new(second, second))
            .shared_budget(Arc::clone(&budget))
            .build()
            .unwrap();
        let server = slow(&under_way, StatusCode::BAD_GATEWAY, &attempts);
        let ended = dropped_after(polls, layer.layer(server).oneshot(request())).await;
        assert_eq!(under_way.count(), 0, "{polls} polls");
        let sent = attempts.load(Ordering::Relaxed);
        sleep(second * 5).await;
        assert_eq!(attempts.load(Ordering::Relaxed), sent, "{polls} polls");
        let retries = sent.saturating_sub(1);
        assert_eq!(100 - left(&budget, 100), retries, "{polls} polls");
        ended
    })
    .await;
    assert!(polls >= 5, "three attempts and two waits, not {polls}");
}

/// Answers with a head at once, and with a status of gRPC at the end, a second later.
#[derive(Clone)]
struct Trailing(UnderWay, Arc<AtomicUsize>);

impl<B: Send + 'static> Service<Request<B>> for Trailing {
    type Response = Response<UnsyncBoxBody<Bytes, Infallible>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.1.fetch_add(1, Ordering::Relaxed);
        let call = self.0.enter();
        let frames = futures_util::stream::once(async move {
            let _held = (call, request);
            sleep(Duration::from_millis(900)).await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
            Ok(http_body::Frame::trailers(trailers))
        });
        ready(Ok(Response::new(StreamBody::new(frames).boxed_unsync())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_retry_of_any_kind_ends_its_attempt_and_pays_only_for_what_was_sent() {
    let second = Duration::from_secs(1);
    let backoff = Backoff::new(second, second);
    let config = budget::Config {
        retry_ratio: 0.0,
        ..budget::Config::default()
    };
    for kind in ["held for its status", "late", "generic"] {
        let polls = at_each_await_point(async |polls| {
            let (under_way, attempts) = (UnderWay::default(), Arc::default());
            let budget = Arc::new(Budget::new(config, Instant::now().into_std()).unwrap());
            let bad_gateway = StatusCode::BAD_GATEWAY;
            let ended = match kind {
                "generic" => {
                    let bad = |answer: Result<&Response<Full<Bytes>>, &Infallible>| match answer {
                        Ok(_) => generic::Verdict::Retry,
                        Err(never) => match *never {},
                    };
                    let layer = generic::GenericLayer::builder(generic::Classify::new(bad));
                    let layer = layer.backoff(backoff).shared_budget(Arc::clone(&budget));
                    let server = slow(&under_way, bad_gateway, &attempts);
                    let retry = layer.build().unwrap().layer(server);
                    dropped_after(polls, retry.oneshot(request())).await
                }
                "late" => {
                    let layer = RetryLayer::builder().attempt_timeout(second / 2);
                    let layer = layer.backoff(backoff).shared_budget(Arc::clone(&budget));
                    let server = slow(&under_way, bad_gateway, &attempts);
                    let retry = layer.build().unwrap().layer(server);
                    dropped_after(polls, retry.oneshot(request())).await
                }
                _ => {
                    let server = Trailing(under_way.clone(), Arc::clone(&attempts));
                    let layer = RetryLayer::grpc_builder().idempotent(|_| true);
                    let layer = layer.backoff(backoff).shared_budget(Arc::clone(&budget));
                    let retry = layer.build().unwrap().layer(server);
                    dropped_after(polls, retry.oneshot(request())).await
                }
            };
            assert_eq!(under_way.count(), 0, "{kind}, {polls} polls");
            let sent = attempts.load(Ordering::Relaxed);
            sleep(second * 5).await;
            assert_eq!(attempts.load(Ordering::Relaxed), sent, "{kind}, {polls}");
            let retries = sent.saturating_sub(1);
            assert_eq!(100 - left(&budget, 100), retries, "{kind}, {polls} polls");
            ended
        })
        .await;
        assert!(
            polls >= 4,
            "{kind}: three attempts and two waits, not {polls}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_timeout_or_proxy_drops_the_request_inside() {
    for limit in [500, 2_000] {
        let polls = at_each_await_point(async |polls| {
            let (under_way, attempts) = (UnderWay::default(), Arc::default());
            let client = TimeoutLayer::deadline(Duration::from_millis(limit)).layer(slow(
                &under_way,
                StatusCode::OK,
                &attempts,
            ));
            let proxy = ReverseProxy::new(client);
            let ended = dropped_after(polls, proxy.oneshot(request())).await;
            assert_eq!(under_way.count(), 0, "{limit} ms, {polls} polls");
            ended
        })
        .await;
        assert!(polls >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_of_a_drain_is_not_in_flight() {
    at_each_await_point(async |polls| {
        let (under_way, attempts) = (UnderWay::default(), Arc::default());
        let drain = Drain::new();
        let service = drain
            .layer()
            .layer(slow(&under_way, StatusCode::OK, &attempts));
        let ended = dropped_after(polls, service.oneshot(request())).await;
        assert_eq!((drain.in_flight(), under_way.count()), (0, 0), "{polls}");
        timeout(LIMIT, drain.idle()).await.unwrap();
        ended
    })
    .await;
}

/// Ends after `sleeps` seconds of sleep, one by one, and is counted as long as it lives.
async fn sleeper(call: Call, sleeps: u32) -> Result<(), Infallible> {
    let _call = call;
    for _ in 0..sleeps {
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn dropped_waits_for_a_drain_leave_it_as_it_was() {
    let polls = at_each_await_point(async |polls| {
        let drain = Drain::new();
        let begin = async {
            sleep(Duration::from_secs(1)).await;
            drain.start();
        };
        let (mut signalled, mut second) = (false, false);
        let waits = async {
            tokio::join!(drain.signalled(), begin);
            signalled = true;
        };
        let ended = dropped_after(polls, waits).await;
        assert_eq!(ended, signalled);
        drain.start();
        timeout(LIMIT, drain.signalled()).await.unwrap();
        second |= drain.phase() >= drain::Phase::Refusing;
        assert!(second, "another wait is not disturbed");
        ended
    })
    .await;
    assert!(polls >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_for_idle_disturbs_no_other() {
    let polls = at_each_await_point(async |polls| {
        let (under_way, attempts) = (UnderWay::default(), Arc::default());
        let drain = Drain::new();
        let service = drain
            .layer()
            .layer(slow(&under_way, StatusCode::OK, &attempts));
        let idle = {
            let drain = drain.clone();
            async move { drain.idle().await }
        };
        let mut under_way = Box::pin(service.oneshot(request()));
        let both = async {
            tokio::select! {
                biased;
                response = &mut under_way => drop(response),
                () = std::future::pending() => {}
            }
        };
        let ended = dropped_after(polls, async { tokio::join!(idle, both) }).await;
        let other = drain.clone();
        let waiting = tokio::spawn(async move { other.idle().await });
        drop(under_way);
        timeout(LIMIT, waiting).await.unwrap().unwrap();
        ended
    })
    .await;
    assert!(polls >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_enforce_drops_the_server() {
    for (sleeps, deadline) in [(3, 60), (60, 3)] {
        at_each_await_point(async |polls| {
            let drain = Drain::builder()
                .settle(Duration::ZERO)
                .deadline(Duration::from_secs(deadline))
                .build()
                .unwrap();
            drain.start();
            let running = UnderWay::default();
            let server = Box::pin(sleeper(running.enter(), sleeps));
            let ended = dropped_after(polls, drain.enforce(server)).await;
            assert_eq!(running.count(), 0, "{polls} polls");
            ended
        })
        .await;
    }
}

#[tokio::test]
async fn a_dropped_server_closes_its_listener_and_its_connections() {
    let polls = at_each_await_point(async |polls| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, running) = (
            Drain::builder()
                .settle(Duration::ZERO)
                .deadline(Duration::from_millis(50))
                .build()
                .unwrap(),
            UnderWay::default(),
        );
        let inside = running.clone();
        let service = service_fn(move |_| {
            let call = inside.enter();
            async move {
                let _call = call;
                std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
            }
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let server = drain::serve(listener, service, drain.clone());
        let start = async {
            while running.count() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            drain.start();
        };
        let ended = dropped_after(polls, async { tokio::join!(server, start) }).await;
        timeout(LIMIT, async {
            while running.count() + drain.in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the connection's task ends");
        assert!(TcpStream::connect(address).await.is_err(), "{polls} polls");
        ended
    })
    .await;
    assert!(polls >= 3);
}
