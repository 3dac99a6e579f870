//! A small real app on an ephemeral port that can be told to misbehave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as AxumRequest, State};
use axum::response::IntoResponse as _;
use axum::routing::{any, get};
use bytes::Bytes;
use ha_tower::health;
use ha_tower::upstream::{self, Upstream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

#[derive(Debug)]
pub(crate) struct App {
    addr: std::net::SocketAddr,
    pub(crate) ready: Arc<AtomicBool>,
    /// What it says of its region when it is not ready.
    pub(crate) region_sick: Arc<AtomicBool>,
    pub(crate) frozen: Arc<AtomicBool>,
    pub(crate) delay_millis: Arc<AtomicU64>,
    pub(crate) checks: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Knobs {
    name: &'static str,
    ready: Arc<AtomicBool>,
    region_sick: Arc<AtomicBool>,
    frozen: Arc<AtomicBool>,
    delay_millis: Arc<AtomicU64>,
    checks: Arc<AtomicU64>,
}

impl Knobs {
    async fn hold(&self) {
        while self.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let delay = self.delay_millis.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

impl App {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at(name, ([127, 0, 0, 1], 0).into())
            .await
            .unwrap()
    }

    /// Each app has a runtime of its own, so that killing it closes its connections as the death of a process does.
    pub(crate) async fn start_at(
        name: &'static str,
        addr: std::net::SocketAddr,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let knobs = Knobs {
            name,
            ready: Arc::new(AtomicBool::new(true)),
            region_sick: Arc::default(),
            frozen: Arc::default(),
            delay_millis: Arc::default(),
            checks: Arc::default(),
        };
        let router = Router::new()
            .route("/", get(say))
            .route("/readyz", get(readyz))
            .route(
                "/echo",
                any(|request: AxumRequest| async { request.into_body() }),
            )
            .route("/drip", get(drip))
            .with_state(knobs.clone());
        let listener = runtime.spawn(TcpListener::bind(addr)).await.unwrap();
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            addr,
            ready: knobs.ready,
            region_sick: knobs.region_sick,
            frozen: knobs.frozen,
            delay_millis: knobs.delay_millis,
            checks: knobs.checks,
            runtime: Some(runtime),
        })
    }

    pub(crate) fn addr(&self) -> std::net::SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn authority(&self) -> String {
        self.addr.to_string()
    }

    pub(crate) async fn kill(mut self) {
        let addr = self.addr;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(addr).await.is_ok() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the port is still open"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Waiting for it is not allowed inside of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn say(State(knobs): State<Knobs>) -> &'static str {
    knobs.hold().await;
    knobs.name
}

async fn readyz(State(knobs): State<Knobs>) -> Response<Body> {
    knobs.checks.fetch_add(1, Ordering::Relaxed);
    knobs.hold().await;
    if knobs.ready.load(Ordering::Relaxed) {
        return StatusCode::OK.into_response();
    }
    let sick = knobs.region_sick.load(Ordering::Relaxed);
    let said = sick.then_some((health::REGION, "sick"));
    let said: HeaderMap = said
        .map(|(name, word)| (name, HeaderValue::from_static(word)))
        .into_iter()
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
}

/// Four pieces, 100 ms apart.
async fn drip() -> Response<Body> {
    let pieces = futures_util::stream::unfold(0, |n| async move {
        if n == 4 {
            return None;
        }
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some((Ok::<_, std::convert::Infallible>("drip"), n + 1))
    });
    Body::from_stream(pieces).into_response()
}

pub(crate) async fn call(
    upstream: &Upstream,
    path: &str,
) -> Result<Response<upstream::Body>, upstream::Error> {
    let request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
    // A clone per request, as axum does.
    upstream.clone().oneshot(request).await
}

/// Which app answered how often among `n` calls, one after the other.
pub(crate) async fn names(upstream: &Upstream, n: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..n {
        let name = match call(upstream, "/").await {
            Ok(response) => match response.into_body().collect().await {
                Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
                Err(_) => "broken body".to_owned(),
            },
            Err(error) if error.is_timeout() => "timeout".to_owned(),
            Err(error) if error.is_connect() => "connect".to_owned(),
            Err(error) if error.is_unavailable() => "unavailable".to_owned(),
            Err(_) => "other".to_owned(),
        };
        *tally.entry(name).or_default() += 1;
    }
    tally
}
