//! Closed-loop and open-loop load over keep-alive connections.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_testbed::load::Histogram;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

/// No request may hang a run.
const LIMIT: Duration = Duration::from_secs(10);
/// Open-loop requests under way at once; one more is a failure, not a queue.
const MOST_OPEN: usize = 1024;

/// What a request carries for those who hash: another value each time.
pub(crate) const KEY: &str = "x-key";

/// Why a request counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// Too many are under way.
    NoRoom,
    /// It took longer than [`LIMIT`].
    Late,
    Connect,
    /// The connection broke.
    Broken,
    Status(u16),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => write!(f, "more than {MOST_OPEN} under way"),
            Self::Late => write!(f, "not within {LIMIT:?}"),
            Self::Connect => f.write_str("no connection"),
            Self::Broken => f.write_str("broken off"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

/// What one run came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) latency: Histogram,
    pub(crate) failed: BTreeMap<Failure, u64>,
    pub(crate) seconds: f64,
}

impl Tally {
    fn add(&mut self, result: Result<(), Failure>, latency: Duration) {
        match result {
            Ok(()) => self.latency.record(latency),
            Err(failure) => *self.failed.entry(failure).or_default() += 1,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        for (failure, count) in &other.failed {
            *self.failed.entry(*failure).or_default() += count;
        }
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.latency.count() as f64 / self.seconds
    }
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    // Ends with this.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let open = async {
            let stream = TcpStream::connect(address).await.map_err(drop)?;
            stream.set_nodelay(true).map_err(drop)?;
            handshake(TokioIo::new(stream)).await.map_err(drop)
        };
        let (sender, connection) = open.await.map_err(|()| Failure::Connect)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    async fn exchange(&mut self) -> Result<(), Failure> {
        let broken = |_| Failure::Broken;
        self.sender.ready().await.map_err(broken)?;
        let mut request = Request::new(Empty::new());
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("bench"));
        headers.insert(KEY, fastrand::u64(..).into());
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        response.into_body().collect().await.map_err(broken)?;
        match status {
            StatusCode::OK => Ok(()),
            status => Err(Failure::Status(status.as_u16())),
        }
    }
}

/// On a kept connection, or a new one. A connection that failed is not used again.
async fn once(kept: &mut Option<Connection>, address: SocketAddr) -> Result<(), Failure> {
    let attempt = async {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        connection.exchange().await?;
        *kept = Some(connection);
        Ok(())
    };
    tokio::time::timeout(LIMIT, attempt)
        .await
        .unwrap_or(Err(Failure::Late))
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
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
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
            Err(_) if counted => all.add(Err(Failure::NoRoom), Duration::ZERO),
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
