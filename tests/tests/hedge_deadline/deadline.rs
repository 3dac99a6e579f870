//! A caller, a front tier and a back tier.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use ha_core::backoff::Backoff;
use ha_tower::hedge::HedgeLayer;
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::{Deadline, DeadlineLayer, TIMEOUT_MS, TimeoutLayer};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Empty;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use crate::{eventually, upstream};

/// What the caller waits. Long for what is to happen within on a busy machine.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// What the back tier sees and does.
#[derive(Default)]
struct Back {
    /// What each request told, and what the deadline left of it, in milliseconds.
    told: Mutex<Vec<(Option<u64>, u64)>>,
    steps: AtomicU64,
    stopped: AtomicU64,
}

impl Back {
    fn note(&self, headers: &HeaderMap, deadline: Deadline) {
        let told = headers
            .get(TIMEOUT_MS)
            .map(|value| value.to_str().unwrap().parse().unwrap());
        let left = deadline.remaining(Instant::now()).as_millis() as u64;
        self.told.lock().unwrap().push((told, left));
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::Relaxed)
    }
}

struct Stopped(Arc<Back>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Works on and on, in small steps.
async fn work(
    State(back): State<Arc<Back>>,
    Extension(deadline): Extension<Deadline>,
    headers: HeaderMap,
) {
    back.note(&headers, deadline);
    let _stopped = Stopped(Arc::clone(&back));
    loop {
        sleep(Duration::from_millis(5)).await;
        back.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has no answer at first, after 50 ms, and then one.
async fn recover(
    State(back): State<Arc<Back>>,
    Extension(deadline): Extension<Deadline>,
    headers: HeaderMap,
) -> StatusCode {
    back.note(&headers, deadline);
    if back.told.lock().unwrap().len() > 1 {
        return StatusCode::OK;
    }
    sleep(Duration::from_millis(50)).await;
    StatusCode::BAD_GATEWAY
}

async fn serve(app: Router, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn back(tasks: &mut JoinSet<()>) -> (SocketAddr, Arc<Back>) {
    let back = Arc::<Back>::default();
    let app = Router::new()
        .route("/work", get(work))
        .route("/recover", get(recover))
        .layer(DeadlineLayer::server())
        .with_state(Arc::clone(&back));
    (serve(app, tasks).await, back)
}

/// A network that loses every farewell: who hangs up on one side stays connected on the other.
async fn deaf_relay(to: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            connections.spawn(async move {
                let far = TcpStream::connect(to).await.unwrap();
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = far.into_split();
                let there = copy(&mut from_near, &mut to_far);
                let back = copy(&mut from_far, &mut to_near);
                let _ = tokio::join!(there, back);
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

/// The caller asks the front tier, which asks the back tier, and gets no answer in time.
async fn caller_goes(propagate: bool, tasks: &mut JoinSet<()>) -> Arc<Back> {
    let (address, back) = back(tasks).await;
    let relay = deaf_relay(address, tasks).await;
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(Duration::from_secs(20)).propagate(propagate))
        .service(upstream([format!("http://{relay}")]).build().unwrap());
    let front = Router::new()
        .fallback_service(ReverseProxy::new(client))
        .layer(DeadlineLayer::server());
    let front = serve(front, tasks).await;
    let caller = upstream([format!("http://{front}")]).build().unwrap();
    let started = Instant::now();
    let request = Request::get("/work")
        .header(TIMEOUT_MS, PATIENCE.as_millis().to_string())
        .body(Empty::<Bytes>::new());
    let response = caller.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(started.elapsed() >= PATIENCE);
    back
}

#[tokio::test]
async fn the_back_tier_is_given_less_than_the_front_and_stops_when_the_caller_goes() {
    let mut tasks = JoinSet::new();
    let back = caller_goes(true, &mut tasks).await;
    let told = back.told.lock().unwrap().clone();
    let [(Some(told), left)] = *told else {
        panic!("{told:?}");
    };
    assert!(0 < told && told < PATIENCE.as_millis() as u64, "{told} ms");
    assert!(left <= told, "{left} of {told} ms");
    eventually("the back tier has stopped", || back.stopped() == 1).await;
    assert!(back.steps() > 0);
}

#[tokio::test]
async fn without_propagation_the_back_tier_works_on_for_nobody() {
    let mut tasks = JoinSet::new();
    let back = caller_goes(false, &mut tasks).await;
    assert_eq!(back.told.lock().unwrap()[0].0, None);
    let steps = back.steps();
    eventually("it goes on", || back.steps() > steps + 50).await;
    assert_eq!(back.stopped(), 0);
}

#[tokio::test]
async fn each_attempt_tells_what_is_left_when_it_leaves_and_no_more_than_its_own_time() {
    for (attempt_timeout, most) in [(30_000, 5_000), (3_000, 3_000)] {
        let mut tasks = JoinSet::new();
        let (address, back) = back(&mut tasks).await;
        let client = ServiceBuilder::new()
            .layer(TimeoutLayer::deadline(Duration::from_secs(5)))
            .layer(
                RetryLayer::builder()
                    .backoff(Backoff::new(Duration::ZERO, Duration::ZERO))
                    .build()
                    .unwrap(),
            )
            .service(
                upstream([format!("http://{address}")])
                    .attempt_timeout(Duration::from_millis(attempt_timeout))
                    .build()
                    .unwrap(),
            );
        let request = Request::get("/recover")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let told = back.told.lock().unwrap().clone();
        let [(Some(first), _), (Some(second), _)] = *told else {
            panic!("{told:?}");
        };
        assert!(first <= most && second <= most, "{told:?}");
        if most == 5_000 {
            assert!(second + 50 <= first, "{told:?}");
        }
    }
}

#[tokio::test]
async fn a_hedge_tells_less_than_the_attempt_that_it_doubles_and_both_stop() {
    let mut tasks = JoinSet::new();
    let (address, back) = back(&mut tasks).await;
    let hedge = HedgeLayer::builder().after(Duration::from_millis(100));
    let upstream = upstream([format!("http://{address}")]).build().unwrap();
    let client = TimeoutLayer::deadline(PATIENCE).layer(hedge.build().unwrap().layer(upstream));
    let request = Request::get("/work").body(Empty::<Bytes>::new()).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    eventually("both have stopped", || back.stopped() == 2).await;
    let told = back.told.lock().unwrap().clone();
    let [(Some(first), _), (Some(second), _)] = *told else {
        panic!("{told:?}");
    };
    assert!(second + 100 <= first, "{told:?}");
}
