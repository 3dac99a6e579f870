//! One of three endpoints stalls now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::any;
use bytes::Bytes;
use ha_core::budget::{self, Budget};
use ha_tower::balance::RoundRobin;
use ha_tower::hedge::{HedgeLayer, Hedged};
use ha_tower::retry::RetryLayer;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceBuilder, ServiceExt as _};

use crate::{eventually, upstream};

const STALL: Duration = Duration::from_millis(1_500);
const CALLERS: u64 = 16;
const CALLS: u64 = 480;
/// Of the requests to the third endpoint one in so many: one in 24 of all.
const STALLS_EACH: u64 = 8;

#[derive(Default)]
struct Book {
    /// Which endpoints each request came to.
    came_to: Mutex<HashMap<u64, Vec<usize>>>,
    stalls: AtomicBool,
    at_the_third: AtomicU64,
    stalled: AtomicU64,
    given_up: AtomicU64,
    /// What every request takes.
    takes_millis: AtomicU64,
}

impl Book {
    fn requests(&self) -> u64 {
        let came_to = self.came_to.lock().unwrap();
        came_to
            .values()
            .map(|endpoints| endpoints.len() as u64)
            .sum()
    }
}

struct GivenUp(Option<Arc<Book>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(book) = self.0.take() {
            book.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn answer(
    State((endpoint, book)): State<(usize, Arc<Book>)>,
    Path(id): Path<u64>,
    body: Bytes,
) -> Bytes {
    book.came_to
        .lock()
        .unwrap()
        .entry(id)
        .or_default()
        .push(endpoint);
    let mut guard = GivenUp(None);
    let millis = book.takes_millis.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    if endpoint == 2 && book.stalls.load(Ordering::Relaxed) {
        let nth = book.at_the_third.fetch_add(1, Ordering::Relaxed);
        if nth.is_multiple_of(STALLS_EACH) {
            book.stalled.fetch_add(1, Ordering::Relaxed);
            guard.0 = Some(Arc::clone(&book));
            tokio::time::sleep(STALL).await;
            guard.0 = None;
        }
    }
    body
}

async fn three(book: &Arc<Book>, tasks: &mut JoinSet<()>) -> Vec<String> {
    let mut urls = Vec::new();
    for endpoint in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        let app = Router::new()
            .route("/{id}", any(answer))
            .with_state((endpoint, Arc::clone(book)));
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    }
    urls
}

type Client =
    BoxCloneSyncService<Request<Full<Bytes>>, (StatusCode, Bytes, Option<Hedged>), BoxError>;

/// A client of any layers, whose answers are read to their end.
macro_rules! client {
    ($service:expr) => {{
        let service = $service;
        let whole = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let service = service.clone();
            async move {
                let response = service.oneshot(request).await.map_err(BoxError::from)?;
                let hedged = response.extensions().get().copied();
                let status = response.status();
                let body = response.into_body().collect().await;
                let body = body.map_err(|error| -> BoxError { error.to_string().into() })?;
                Ok::<_, BoxError>((status, body.to_bytes(), hedged))
            }
        });
        BoxCloneSyncService::new(whole)
    }};
}

/// Makes calls with the numbers of `ids`, and says how long each took and whether a hedge won.
async fn load(client: &Client, ids: std::ops::Range<u64>) -> Vec<(Duration, bool)> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = client.clone();
        let ids = ids.clone();
        callers.spawn(async move {
            let mut took = Vec::new();
            for id in ids.filter(|id| id % CALLERS == caller) {
                let body = Bytes::from(format!("body {id}"));
                let request =
                    Request::put(format!("http://apps/{id}")).body(Full::from(body.clone()));
                let started = Instant::now();
                let (status, answer, hedged) =
                    client.clone().oneshot(request.unwrap()).await.unwrap();
                assert_eq!((status, answer), (StatusCode::OK, body));
                took.push((started.elapsed(), hedged.is_some_and(|it| it.winner > 0)));
            }
            took
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

#[derive(Debug)]
struct Outcome {
    /// Calls that took a whole stall.
    waited: u64,
    /// Calls that a hedge won.
    won: u64,
    stalled: u64,
    /// Requests beyond one per call.
    added: u64,
}

const WARM: u64 = 160;

async fn run(hedging: bool) -> Outcome {
    let (book, mut tasks) = (Arc::<Book>::default(), JoinSet::new());
    let upstream = upstream(three(&book, &mut tasks).await)
        .balance(RoundRobin)
        .build()
        .unwrap();
    let budget = budget::Config {
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let layer = HedgeLayer::builder().budget(budget).build().unwrap();
    let client: Client = if hedging {
        client!(layer.layer(upstream))
    } else {
        client!(upstream)
    };
    load(&client, 0..WARM).await;
    if hedging {
        eventually("the percentile is known", || layer.delay().is_some()).await;
    }
    book.stalls.store(true, Ordering::Relaxed);
    let calls = load(&client, WARM..WARM + CALLS).await;
    if hedging {
        let all = || {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            load(&book.given_up) == load(&book.stalled)
        };
        eventually("every loser is given up", all).await;
    } else {
        assert_eq!(book.given_up.load(Ordering::Relaxed), 0);
    }
    for (id, endpoints) in book.came_to.lock().unwrap().iter() {
        assert!(endpoints.len() <= 2, "{id} came to {endpoints:?}");
        let elsewhere = endpoints.len() < 2 || endpoints[0] != endpoints[1];
        assert!(elsewhere, "{id} came to {endpoints:?}");
    }
    Outcome {
        waited: calls.iter().filter(|(took, _)| *took >= STALL).count() as u64,
        won: calls.iter().filter(|(_, won)| *won).count() as u64,
        stalled: book.stalled.load(Ordering::Relaxed),
        added: book.requests() - (WARM + CALLS),
    }
}

#[tokio::test]
async fn the_slowest_hundredth_falls_and_the_load_stays_within_the_budget() {
    let with = run(true).await;
    assert!(with.stalled >= 10, "{with:?}");
    assert!(with.waited < CALLS / 100, "{with:?}");
    assert!(with.won > 0, "{with:?}");
    // A fifth of the requests.
    assert!(with.added * 5 <= WARM + CALLS, "{with:?}");
}

#[tokio::test]
async fn without_hedging_the_slowest_hundredth_is_a_stall() {
    let without = run(false).await;
    assert_eq!(without.waited, without.stalled);
    assert!(without.waited > CALLS / 100, "{without:?}");
    assert_eq!((without.won, without.added), (0, 0));
}

/// How many requests are added to 160 calls when every answer is later than the delay.
async fn added_when_all_are_late(retry_ratio: f64) -> u64 {
    let (book, mut tasks) = (Arc::<Book>::default(), JoinSet::new());
    book.takes_millis.store(40, Ordering::Relaxed);
    let config = budget::Config {
        retry_ratio,
        reserve_per_second: 0.0,
        // Longer than the test, so that nothing is forgotten.
        window: Duration::from_secs(600),
    };
    let budget = Arc::new(Budget::new(config, std::time::Instant::now()).unwrap());
    let retry = RetryLayer::builder().shared_budget(Arc::clone(&budget));
    let hedge = HedgeLayer::builder()
        .after(Duration::from_millis(2))
        .shared_budget(budget);
    let upstream = upstream(three(&book, &mut tasks).await).build().unwrap();
    let client = client!(
        ServiceBuilder::new()
            .layer(retry.build().unwrap())
            .layer(hedge.build().unwrap())
            .service(upstream)
    );
    load(&client, 0..160).await;
    book.requests() - 160
}

#[tokio::test]
async fn when_all_are_late_one_budget_holds_retries_and_hedges_together() {
    let added = added_when_all_are_late(0.1).await;
    assert!((1..=16).contains(&added), "{added}");
}

#[tokio::test]
async fn without_a_bound_the_load_grows_when_all_are_late() {
    let added = added_when_all_are_late(1.0).await;
    assert!(added > 50, "{added}");
}
