//! How much three tiers that each retry add to an outage, beside tower-resilience and a naive loop, on real sockets.
//!
//! Clients call the first of three proxies, each calls the next, and the server at the bottom answers 503 to everything. Each
//! proxy makes up to three attempts. What counts is how many requests arrive at the bottom for each that entered at the top.
//!
//! `cargo xtask bench storm` runs it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ha_benches::Arguments;
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::upstream::{self, Upstream};
use ha_tower::{breaker, discover};
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_resilience_retry::RetryBudgetBuilder;

const TIERS: usize = 3;
const ENTER: u64 = 2_000;
const CALLERS: u64 = 32;
const OURS: &str = "ours";

type Ask = Request<Empty<Bytes>>;
type Answer = Response<upstream::Body>;

#[derive(Clone, Copy)]
enum Tier {
    Ours,
    Resilience { budget: bool },
    Naive,
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    println!("requests at the bottom of three tiers for each of {ENTER} that entered, all failing");
    let mut factors = BTreeMap::new();
    for (who, tier) in [
        (OURS, Tier::Ours),
        ("tower_resilience", Tier::Resilience { budget: false }),
        ("tower_resilience_budget", Tier::Resilience { budget: true }),
        ("naive", Tier::Naive),
    ] {
        let factor = runtime.block_on(storm(tier)) as f64 / ENTER as f64;
        println!("{who:<24} {factor:>6.2}");
        factors.insert(who, factor);
    }
    let ours = factors.remove(OURS);
    let row =
        json!({"bench": "storm", "case": "three_tiers", "ours_factor": ours, "peers": factors});
    Arguments::read().write(format!("{:#}\n", Value::Array(vec![row])))?;
    Ok(())
}

/// How many requests arrive at the bottom.
async fn storm(tier: Tier) -> u64 {
    let (mut tasks, arrived) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&arrived);
    let fails = service_fn(move |_: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        async { Ok::<_, Infallible>(response) }
    });
    let mut at = serve(fails, &mut tasks).await;
    for _ in 0..TIERS {
        let next = upstream(at);
        at = match tier {
            Tier::Ours => {
                let client = RetryLayer::http().layer(next);
                serve(ReverseProxy::new(client), &mut tasks).await
            }
            Tier::Resilience { budget } => {
                let client = resilience(budget).layer(next);
                serve(ReverseProxy::new(without_body(client)), &mut tasks).await
            }
            Tier::Naive => {
                let client = service_fn(move |ask| naive(next.clone(), ask));
                serve(ReverseProxy::new(without_body(client)), &mut tasks).await
            }
        };
    }
    let (client, mut callers) = (upstream(at), JoinSet::new());
    for _ in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            for _ in 0..ENTER / CALLERS {
                let ask = Request::get("http://top/")
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                drop(client.clone().oneshot(ask).await.unwrap());
            }
        });
    }
    callers.join_all().await;
    arrived.load(Ordering::Relaxed)
}

async fn serve(service: impl drain::HttpService + Sync, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let _ = drain::serve(listener, service, Drain::new()).await;
    });
    address
}

fn upstream(to: SocketAddr) -> Upstream {
    // A breaker would end the storm for all of them.
    let mut never_trips = breaker::Config::default();
    never_trips.consecutive_failures = u32::MAX;
    never_trips.minimum_calls = u32::MAX;
    Upstream::builder("next")
        .discover(discover::fixed([format!("http://{to}")]).unwrap())
        .breaker(never_trips)
        .connect_timeout(Duration::from_secs(10))
        .attempt_timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

fn resilience(budget: bool) -> tower_resilience_retry::RetryLayer<Ask, Answer, upstream::Error> {
    let mut builder = tower_resilience_retry::RetryLayer::<Ask, Answer, upstream::Error>::builder()
        .max_attempts(3)
        .fixed_backoff(Duration::from_millis(1))
        .retry_on_response(|answer: &Answer| answer.status().is_server_error());
    if budget {
        builder = builder.budget(RetryBudgetBuilder::new().aimd().build().unwrap());
    }
    builder.build()
}

async fn naive(next: Upstream, ask: Ask) -> Result<Answer, upstream::Error> {
    for _ in 1..3 {
        match next.clone().oneshot(ask.clone()).await {
            Ok(answer) if answer.status().is_success() => return Ok(answer),
            _ => {}
        }
    }
    next.oneshot(ask).await
}

/// The peers want requests that can be copied whole.
fn without_body<S>(
    client: S,
) -> impl Service<Request<Incoming>, Response = Answer, Error = upstream::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
where
    S: Service<Ask, Response = Answer, Error = upstream::Error, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    client.map_request(|request: Request<Incoming>| request.map(|_| Empty::new()))
}
