//! A service with so many workers, and clients that ask it for more than it can do. The bench `overload` runs the same.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use ha_testbed::load::{Call, Histogram, Load, Outcome, Run};
use ha_tower::limit::Priority;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The header in which clients say their priority, and which the service trusts.
pub(crate) const PRIORITY: &str = "x-priority";

/// What a service is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) workers: usize,
    pub(crate) work: Duration,
    /// When clients give up.
    pub(crate) patience: Duration,
}

impl Size {
    /// Requests per second.
    pub(crate) fn capacity(&self) -> f64 {
        self.workers as f64 / self.work.as_secs_f64()
    }
}

/// A service that listens until this is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    wasted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    /// `protect` puts around it what is to be tried.
    pub(crate) async fn start(size: Size, protect: impl FnOnce(Router) -> Router) -> Self {
        let workers = Arc::new(Semaphore::new(size.workers));
        let wasted = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&wasted);
        let handler = move || {
            let (workers, wasted) = (Arc::clone(&workers), Arc::clone(&counted));
            let (done, answer) = oneshot::channel();
            // Like a query or a blocking thread: what has been asked for is done, whether or not somebody still waits.
            tokio::spawn(async move {
                let worker = workers.acquire().await;
                tokio::time::sleep(size.work).await;
                drop(worker);
                if done.send("done").is_err() {
                    wasted.fetch_add(1, Ordering::Relaxed);
                }
            });
            async move { answer.await.unwrap_or("lost") }
        };
        let app = protect(Router::new().route("/", get(handler)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self {
            address,
            wasted,
            task,
        }
    }

    /// How much was done for clients that had gone.
    pub(crate) fn wasted(&self) -> u64 {
        self.wasted.load(Ordering::Relaxed)
    }
}

type Http = Client<HttpConnector, Empty<Bytes>>;

/// What clients of one priority have come to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) good: u64,
    pub(crate) refused: u64,
    /// Of those that were served.
    pub(crate) latency: Histogram,
}

struct Asks {
    http: Http,
    address: SocketAddr,
    priority: Priority,
    counted_from: Instant,
    tally: Arc<Mutex<Tally>>,
}

impl Call for Asks {
    async fn call(&mut self) -> Outcome {
        let began = Instant::now();
        let counted = began >= self.counted_from;
        self.tally.lock().unwrap().sent += u64::from(counted);
        let request = Request::get(format!("http://{}/", self.address))
            .header(PRIORITY, self.priority.as_str())
            .body(Empty::new())
            .unwrap();
        let Ok(response) = self.http.request(request).await else {
            return Outcome::Failed;
        };
        let status = response.status();
        let whole = response.into_body().collect().await.is_ok();
        if counted {
            let mut tally = self.tally.lock().unwrap();
            if status == 200 && whole {
                tally.good += 1;
                tally.latency.record(began.elapsed());
            } else if status == 503 {
                tally.refused += 1;
            }
        }
        Outcome::Ok
    }
}

/// Asks `factor` times what a service of this size can do: a tenth critical, two tenths sheddable. The warm-up is not counted.
pub(crate) async fn drive(
    service: &Service,
    size: Size,
    factor: f64,
    warm_up: Duration,
    measure: Duration,
) -> [Tally; 3] {
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let counted_from = Instant::now() + warm_up;
    let groups = [0.1, 0.7, 0.2].into_iter().zip(Priority::ALL);
    let runs: Vec<(Run, Arc<Mutex<Tally>>)> = groups
        .map(|(share, priority)| {
            let rate = size.capacity() * factor * share;
            // So many that each has given up before it is due again.
            let clients = (rate * size.patience.as_secs_f64() * 1.5).ceil() as usize;
            let tally = Arc::<Mutex<Tally>>::default();
            let load = Load::clients(clients).rate(rate).deadline(size.patience);
            let run = load.start(|_| Asks {
                http: http.clone(),
                address: service.address,
                priority,
                counted_from,
                tally: Arc::clone(&tally),
            });
            (run, tally)
        })
        .collect();
    tokio::time::sleep(warm_up + measure).await;
    let mut tallies = Vec::new();
    for (run, tally) in runs {
        drop(run);
        tallies.push(tally.lock().unwrap().clone());
    }
    tallies.try_into().unwrap()
}
