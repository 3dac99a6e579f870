//! An app process is killed a hundred times under load, and nobody outside notices.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use ha_testbed::load::{Call, Load, Outcome, Run};
use ha_testbed::ports::Reservation;
use ha_testbed::process::{Bed, Process, Spec};
use ha_tower::retry::{Attempts, RetryLayer};
use ha_tower::upstream::Upstream;
use ha_tower::{breaker, discover, health, outlier};
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tower::{BoxError, Layer as _, Service, ServiceExt as _};

const PORT: &str = "HA_KILLED_APP_PORT";
const PIECES: usize = 4;
const PIECE: &str = "0123456789abcdef";
/// A fifth of these and ten per second may be sent again, and eight clients can be at the dead app at once.
const PER_KILL: u64 = 30;
/// Long for one step on a busy machine; a step that needs longer hangs.
const STEP: Duration = Duration::from_secs(20);

/// The body of the app processes: they are this very program, told by the environment to be an app.
#[test]
fn an_app_process_serves_when_the_environment_names_a_port() {
    let Ok(port) = std::env::var(PORT) else {
        return;
    };
    let router = Router::new()
        .route("/", get(answer))
        .route("/readyz", get(|| async { "ready" }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let at = format!("127.0.0.1:{port}");
        let listener = TcpListener::bind(at).await.unwrap();
        // Each piece goes out at once.
        let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
        axum::serve(listener, router).await.unwrap();
    });
}

/// In pieces, so that a kill meets requests before their head, after it, and in the middle of the body.
async fn answer() -> Response<Body> {
    let pause = || tokio::time::sleep(Duration::from_millis(2));
    pause().await;
    let pieces = stream::iter(0..PIECES).then(move |_| async move {
        pause().await;
        Ok::<_, Infallible>(PIECE)
    });
    let length = [(CONTENT_LENGTH, PIECES * PIECE.len())];
    (length, Body::from_stream(pieces)).into_response()
}

struct Apps {
    processes: Vec<Process>,
    upstream: Upstream,
    // Gives the ports back after the processes are gone.
    ports: Reservation,
}

impl Apps {
    async fn start() -> Self {
        let bed = Bed::temporary().unwrap();
        let ports = Reservation::take(3).unwrap();
        let program = std::env::current_exe().unwrap();
        let start = |port: &u16| {
            let spec = Spec::new(format!("app-{port}"), &program)
                .arg("an_app_process_serves_when_the_environment_names_a_port")
                .args(["--exact", "--nocapture"])
                .env(PORT, port.to_string())
                .port(*port)
                .as_owner();
            bed.spawn(spec).unwrap()
        };
        let processes = ports.ports().iter().map(start).collect();
        let apps = Self {
            processes,
            upstream: upstream(ports.ports()),
            ports,
        };
        apps.all_available().await;
        apps
    }

    fn available(&self) -> usize {
        let endpoints = self.upstream.endpoints();
        endpoints.iter().filter(|e| e.available).count()
    }

    async fn all_available(&self) {
        eventually("all apps are available", || self.available() == 3).await;
    }

    async fn answers(&self, app: usize) {
        let at = (Ipv4Addr::LOCALHOST, self.ports.ports()[app]);
        let end = Instant::now() + STEP;
        while TcpStream::connect(at).await.is_err() {
            assert!(Instant::now() < end, "{at:?} does not answer");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills an app under the load, starts it again when that was noticed, and waits until it is trusted again.
    async fn kill_one(&self, n: usize, noticed: impl Fn() -> bool) {
        let app = &self.processes[n % self.processes.len()];
        app.kill().await.unwrap();
        eventually("the load meets the dead app", || {
            noticed() || self.available() < 3
        })
        .await;
        app.start().unwrap();
        // The upstream may not have looked at it since it was killed, and still trust it.
        self.answers(n % self.processes.len()).await;
        self.all_available().await;
    }
}

fn upstream(ports: &[u16]) -> Upstream {
    let mut breaker = breaker::Config::default();
    breaker.consecutive_failures = 2;
    breaker.open_min = Duration::from_millis(50);
    breaker.open_max = Duration::from_millis(100);
    breaker.probes = 1;
    let mut outlier = outlier::Config::default();
    outlier.base_ejection = Duration::from_millis(50);
    outlier.max_ejection = Duration::from_millis(100);
    let check = health::Http::get("/readyz")
        .interval(Duration::from_secs(2))
        .timeout(Duration::from_secs(2))
        .transition_interval(Duration::from_millis(25));
    Upstream::builder("killed")
        .discover(
            discover::fixed(ports.iter().map(|port| format!("http://127.0.0.1:{port}"))).unwrap(),
        )
        .health(check)
        .outlier(outlier)
        .breaker(breaker)
        // The machine may be busy; the dead are noticed by refused connections and not by time.
        .connect_timeout(Duration::from_secs(2))
        .attempt_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + STEP;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {STEP:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asks again and again for the whole answer.
struct Caller<S> {
    service: S,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    retried: AtomicU64,
    begun: AtomicU64,
    under_way: Mutex<BTreeSet<u64>>,
    errors: Mutex<Vec<String>>,
}

impl Seen {
    fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    fn begin(&self) -> u64 {
        let mut under_way = self.under_way.lock().unwrap();
        let n = self.begun.fetch_add(1, Ordering::Relaxed);
        under_way.insert(n);
        n
    }

    /// Waits until that many more requests have begun.
    async fn go_on(&self, requests: u64) {
        let end = self.begun.load(Ordering::Relaxed) + requests;
        eventually("there are more requests", || {
            self.begun.load(Ordering::Relaxed) >= end
        })
        .await;
    }

    /// Waits until all requests have ended that are under way now.
    async fn settle(&self) {
        let now = self.begun.load(Ordering::Relaxed);
        eventually("the requests have ended", || {
            let under_way = self.under_way.lock().unwrap();
            under_way.first().is_none_or(|oldest| *oldest >= now)
        })
        .await;
    }
}

impl<S, B> Call for Caller<S>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send,
{
    async fn call(&mut self) -> Outcome {
        let n = self.seen.begin();
        let asked = self.ask().await;
        self.seen.under_way.lock().unwrap().remove(&n);
        match asked {
            Ok(body) if body == PIECE.repeat(PIECES) => return Outcome::Ok,
            Ok(body) => self.note(format!("a body of {} bytes", body.len())),
            Err(error) => self.note(format!("{error:?}")),
        }
        Outcome::Failed
    }
}

impl<S, B> Caller<S>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    fn note(&self, error: String) {
        self.seen.errors.lock().unwrap().push(error);
    }

    async fn ask(&mut self) -> Result<Bytes, BoxError> {
        let request = Request::get("/").body(Empty::new())?;
        let response = self.service.clone().oneshot(request).await;
        let response = response.map_err(Into::into)?;
        if response
            .extensions()
            .get::<Attempts>()
            .is_some_and(|attempts| attempts.0 > 1)
        {
            self.seen.retried.fetch_add(1, Ordering::Relaxed);
        }
        if response.status() != StatusCode::OK {
            return Err(response.status().to_string().into());
        }
        let body = response.into_body().collect().await;
        Ok(body.map_err(Into::into)?.to_bytes())
    }
}

fn load<S>(service: S, seen: &Arc<Seen>) -> Run
where
    Caller<S>: Call,
    S: Clone,
{
    Load::clients(8).rate(800.0).start(|_| Caller {
        service: service.clone(),
        seen: seen.clone(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_under_load_fail_no_request() {
    let apps = Apps::start().await;
    let seen = Arc::new(Seen::default());
    let retry = RetryLayer::http();
    let run = load(retry.layer(apps.upstream.clone()), &seen);
    let mut met = 0;
    for n in 0..100 {
        let before = seen.retried();
        let is_met = || seen.retried() > before;
        apps.kill_one(n, is_met).await;
        met += u32::from(is_met());
        // Three attempts are for two endpoints that die together. Kills that come as fast as a request tries again can meet it
        // all three times, so none is to live through two of them.
        seen.settle().await;
        // The budget for retries, left at its default, is a share of the requests; how many the machine makes in between varies.
        seen.go_on(PER_KILL).await;
    }
    let report = run.stop().await;
    let errors = seen.errors.lock().unwrap();
    assert_eq!(
        (&errors[..], report.timed_out),
        (&[][..], 0),
        "of {}",
        report.ok
    );
    assert!(met > 50, "the load met only {met} of the kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_retries_the_same_kills_fail_requests() {
    let apps = Apps::start().await;
    let run = load(apps.upstream.clone(), &Arc::default());
    for n in 0..20 {
        apps.kill_one(n, || run.report().failed > 0).await;
        if run.report().failed > 0 {
            return;
        }
    }
    panic!("20 kills failed none of {} requests", run.stop().await.ok);
}
