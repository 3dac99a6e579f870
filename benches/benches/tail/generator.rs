//! Closed-loop and open-loop load over keep-alive connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_testbed::load::Histogram;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

/// No request may hang a run.
const LIMIT: Duration = Duration::from_secs(10);
/// Open-loop requests under way at once; one more is a failure, not a queue.
const MOST_OPEN: usize = 1024;

/// What one run came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) latency: Histogram,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
}

impl Tally {
    fn add(&mut self, result: Result<(), ()>, latency: Duration) {
        match result {
            Ok(()) => self.latency.record(latency),
            Err(()) => self.failed += 1,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.failed += other.failed;
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.latency.count() as f64 / self.seconds
    }
}

type Sender = SendRequest<Empty<Bytes>>;

async fn connect(address: SocketAddr) -> Result<Sender, ()> {
    let stream = TcpStream::connect(address).await.map_err(drop)?;
    stream.set_nodelay(true).map_err(drop)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(drop)?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(sender: &mut Sender) -> Result<(), ()> {
    sender.ready().await.map_err(drop)?;
    let request = Request::get("/")
        .header("host", "bench")
        .body(Empty::new())
        .map_err(drop)?;
    let response = sender.send_request(request).await.map_err(drop)?;
    let good = response.status() == StatusCode::OK;
    response.into_body().collect().await.map_err(drop)?;
    if good { Ok(()) } else { Err(()) }
}

/// On a kept connection, or a new one. A connection that failed is not used again.
async fn once(kept: &mut Option<Sender>, address: SocketAddr) -> Result<(), ()> {
    let attempt = async {
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => connect(address).await?,
        };
        exchange(&mut sender).await?;
        *kept = Some(sender);
        Ok(())
    };
    tokio::time::timeout(LIMIT, attempt)
        .await
        .unwrap_or(Err(()))
}

/// `connections` clients, each of which asks again as soon as it was answered. The warm-up is not counted.
pub(crate) async fn closed(
    address: SocketAddr,
    connections: usize,
    warm_up: Duration,
    measure: Duration,
) -> Tally {
    let begin = Instant::now() + warm_up;
    let end = begin + measure;
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(async move {
            let mut tally = Tally::default();
            let mut kept = None;
            loop {
                let start = Instant::now();
                if start >= end {
                    return tally;
                }
                let result = once(&mut kept, address).await;
                if start >= begin {
                    tally.add(result, start.elapsed());
                }
            }
        });
    }
    let mut all = Tally {
        seconds: measure.as_secs_f64(),
        ..Tally::default()
    };
    while let Some(Ok(one)) = clients.join_next().await {
        all.merge(&one);
    }
    all
}

/// Arrivals at random moments (Poisson), whatever the answers do. Latency counts from the moment at which a request was due, so
/// that nobody is spared the wait behind a slow one.
pub(crate) async fn open(
    address: SocketAddr,
    per_second: f64,
    warm_up: Duration,
    measure: Duration,
) -> Tally {
    let mut random = fastrand::Rng::with_seed(7);
    let begin = Instant::now() + warm_up;
    let end = begin + measure;
    let idle: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let room = Arc::new(Semaphore::new(MOST_OPEN));
    let mut all = Tally {
        seconds: measure.as_secs_f64(),
        ..Tally::default()
    };
    let mut under_way = JoinSet::new();
    let mut due = Instant::now();
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        let counted = due >= begin;
        match room.clone().try_acquire_owned() {
            Ok(permit) => {
                let idle = idle.clone();
                under_way.spawn(async move {
                    let _permit = permit;
                    let mut kept = idle.lock().await.pop();
                    let result = once(&mut kept, address).await;
                    let latency = due.elapsed();
                    idle.lock().await.extend(kept);
                    (counted, result, latency)
                });
            }
            Err(_) if counted => all.failed += 1,
            Err(_) => {}
        }
        while let Some(Ok((counted, result, latency))) = under_way.try_join_next() {
            if counted {
                all.add(result, latency);
            }
        }
        due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / per_second);
    }
    while let Some(Ok((counted, result, latency))) = under_way.join_next().await {
        if counted {
            all.add(result, latency);
        }
    }
    all
}
