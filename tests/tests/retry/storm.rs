//! Three tiers that each retry, before a server that fails everything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ha_tower::discover;
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::TimeoutLayer;
use ha_tower::upstream::Upstream;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

const TIERS: usize = 3;
const CALLERS: u64 = 16;
/// What the default budget of a tier grants without any traffic, per second, over its window of ten seconds.
const RESERVE: f64 = 10.0;
const WINDOW: f64 = 10.0;

/// How the server at the bottom fails.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Answers,
    HangsUp,
}

#[derive(Clone, Copy, Debug)]
enum Tier {
    Ours,
    Naive,
}

/// The server at the bottom, and how many requests it got.
async fn bottom(failing: Failing, tasks: &mut JoinSet<()>) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    match failing {
        Failing::Answers => {
            let service = service_fn(move |_: Request<Incoming>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                async { Ok::<_, Infallible>(response) }
            });
            tasks.spawn(async move {
                let _ = drain::serve(listener, service, Drain::new()).await;
            });
        }
        Failing::HangsUp => {
            tasks.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let counted = Arc::clone(&counted);
                    tokio::spawn(async move {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                                return;
                            }
                        }
                        counted.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    }
    (address, requests)
}

fn upstream(to: SocketAddr) -> Upstream {
    Upstream::builder("next")
        .discover(discover::fixed([format!("http://{to}")]).unwrap())
        .breaker(crate::never_trips())
        .connect_timeout(Duration::from_secs(10))
        .attempt_timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}

/// A proxy that retries what the next one fails.
async fn tier(kind: Tier, next: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = upstream(next);
    match kind {
        Tier::Ours => {
            let client = ServiceBuilder::new()
                .layer(TimeoutLayer::deadline(Duration::from_secs(60)))
                .layer(RetryLayer::http())
                .service(upstream);
            let proxy = ReverseProxy::new(client);
            tasks.spawn(async move {
                let _ = drain::serve(listener, proxy, Drain::new()).await;
            });
        }
        Tier::Naive => {
            let client = service_fn(move |request: Request<Incoming>| {
                let upstream = upstream.clone();
                let (head, _) = request.into_parts();
                async move {
                    let attempt = || {
                        let request = Request::from_parts(head.clone(), Empty::<Bytes>::new());
                        upstream.clone().oneshot(request)
                    };
                    for _ in 1..3 {
                        match attempt().await {
                            Ok(response) if response.status().is_success() => return Ok(response),
                            _ => {}
                        }
                    }
                    attempt().await
                }
            });
            let proxy = ReverseProxy::new(client);
            tasks.spawn(async move {
                let _ = drain::serve(listener, proxy, Drain::new()).await;
            });
        }
    }
    address
}

/// How many requests arrive at the bottom when `enter` enter at the top, and how many the rules allow.
async fn storm(kind: Tier, failing: Failing, enter: u64) -> (f64, f64) {
    let mut tasks = JoinSet::new();
    let (mut at, arrived) = bottom(failing, &mut tasks).await;
    for _ in 0..TIERS {
        at = tier(kind, at, &mut tasks).await;
    }
    let client = upstream(at);
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            for _ in 0..enter / CALLERS {
                let request = Request::get("http://top/")
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                let response = client.clone().oneshot(request).await.unwrap();
                assert!(response.status().is_server_error());
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let minimum = RESERVE * (WINDOW + started.elapsed().as_secs_f64());
    let allowed = 1.25 * enter as f64 + minimum;
    (arrived.load(Ordering::Relaxed) as f64, allowed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tiers_that_retry_add_no_more_than_one_budget() {
    for failing in [Failing::Answers, Failing::HangsUp] {
        let (arrived, allowed) = storm(Tier::Ours, failing, 1_600).await;
        assert!(arrived <= allowed, "{failing:?}: {arrived} of {allowed}");
        assert!(arrived > 1_600.0, "{failing:?}: retries were made at all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tiers_that_retry_naively_multiply() {
    for failing in [Failing::Answers, Failing::HangsUp] {
        let enter = 48;
        let (arrived, allowed) = storm(Tier::Naive, failing, enter).await;
        assert!(arrived > allowed, "{failing:?}: {arrived} of {allowed}");
        assert!(arrived >= 27.0 * enter as f64, "{failing:?}: {arrived}");
    }
}
