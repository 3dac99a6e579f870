//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

mod config;
mod generic;
mod measured;
#[cfg(feature = "metrics")]
mod metrics;
mod race;
mod rules;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ha_core::budget::{self, Budget};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::body::{Replay, ReplayError};
use crate::tried::Tried;

const MS: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
#[error("attempt {0} broke")]
struct Broke(usize);

/// What an attempt does: after how many milliseconds, which status; 0 is an error.
type Act = (u32, u16);

/// One attempt as the server saw it.
#[derive(Clone, Debug, Default)]
struct Seen {
    at: Duration,
    marker: Option<String>,
    tried: Option<usize>,
    body: Bytes,
    /// When it was dropped without having answered.
    dropped: Option<Duration>,
}

/// A balancer and its endpoints in one: acts by a script, and notes what it gets.
#[derive(Clone)]
struct Server {
    script: Arc<[Act]>,
    seen: Arc<Mutex<Vec<Seen>>>,
    started: Instant,
}

impl Server {
    fn new(script: &[Act]) -> Self {
        Self {
            script: script.into(),
            seen: Arc::default(),
            started: Instant::now(),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn sent_at(&self) -> Vec<u128> {
        self.seen().iter().map(|it| it.at.as_millis()).collect()
    }
}

/// Notes its drop unless it has been told that there was an answer.
struct Running {
    server: Server,
    index: usize,
    answered: bool,
}

impl Running {
    fn has_answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.answered {
            let dropped = Some(self.server.started.elapsed());
            self.server.seen.lock().unwrap()[self.index].dropped = dropped;
        }
    }
}

impl<B> Service<Request<B>> for Server
where
    B: http_body::Body<Data = Bytes, Error = ReplayError> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Broke;
    type Future = BoxFuture<'static, Result<Response<Full<Bytes>>, Broke>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        let (head, body) = request.into_parts();
        let tried = head.extensions.get::<Tried>();
        let mut seen = self.seen.lock().unwrap();
        let index = seen.len();
        let marker = head.headers.get("x-retry-attempt");
        seen.push(Seen {
            at: self.started.elapsed(),
            marker: marker.map(|it| it.to_str().unwrap().to_owned()),
            tried: tried.map(Tried::len),
            ..Seen::default()
        });
        if let Some(tried) = tried {
            tried.record(format!("endpoint-{index}").as_str().into());
        }
        let mut running = Running {
            server,
            index,
            answered: false,
        };
        Box::pin(async move {
            let body = body.collect().await.unwrap().to_bytes();
            running.server.seen.lock().unwrap()[index].body = body;
            let (millis, status) = running.server.script[index];
            sleep(MS * millis).await;
            running.has_answered();
            if status == 0 {
                return Err(Broke(index));
            }
            let mut response = Response::new(Full::from(index.to_string()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        })
    }
}

fn request(method: Method) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("/x");
    request.body(Full::from("body")).unwrap()
}

fn after(millis: u32) -> Builder {
    HedgeLayer::builder().after(MS * millis)
}

/// A budget of so many hedges, whatever happens.
fn budget_of(hedges: u32) -> Arc<Budget> {
    let config = budget::Config {
        retry_ratio: 0.0,
        reserve_per_second: f64::from(hedges) / 10.0,
        ..budget::Config::default()
    };
    Arc::new(Budget::new(config, Instant::now().into_std()).unwrap())
}

/// What is left of it.
fn left(budget: &Budget) -> usize {
    let now = Instant::now().into_std();
    (0..1_000).take_while(|_| budget.withdraw(now)).count()
}

/// Which attempt answered, or which error came, and after how long.
async fn outcome(
    layer: &HedgeLayer,
    server: &Server,
    request: Request<Full<Bytes>>,
) -> (Result<(u16, String), String>, u128) {
    let started = Instant::now();
    let result = layer.layer(server.clone()).oneshot(request).await;
    let elapsed = started.elapsed().as_millis();
    let result = match result {
        Err(error) => Err(error.to_string()),
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Ok((status, String::from_utf8(body.to_vec()).unwrap()))
        }
    };
    (result, elapsed)
}

fn ok(status: u16, attempt: &str) -> Result<(u16, String), String> {
    Ok((status, attempt.to_owned()))
}
