//! Slow start of an endpoint that is new, or back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream;
use ha_core::endpoint::Endpoint;
use ha_core::health::State;
use ha_core::slow_start;
use ha_tower::balance::RoundRobin;
use ha_tower::discover;
use ha_tower::health::Http;
use ha_tower::upstream::{EndpointSnapshot, Upstream};
use tokio::sync::oneshot;

use crate::app::{App, names};
use crate::wait::eventually;

/// So long that a share stays where it begins while a test counts.
const AN_HOUR: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(25);

fn windows(new: Duration, recovered: Duration) -> slow_start::Config {
    let mut config = slow_start::Config::default();
    config.new_window = new;
    config.recovered_window = recovered;
    config
}

/// One app, and another that joins it when it is told to.
struct Pair {
    second: App,
    first: App,
    joins: Option<oneshot::Sender<()>>,
    upstream: Upstream,
}

impl Pair {
    async fn start(slow_start: Option<slow_start::Config>) -> Self {
        let (first, second) = (App::start("first").await, App::start("second").await);
        let both: [Endpoint; 2] = [&first, &second].map(|app| app.url().parse().unwrap());
        let (joins, joined) = oneshot::channel();
        let alone = stream::iter([both[..1].to_vec()]);
        let later = stream::once(async move {
            joined.await.unwrap();
            both.to_vec()
        });
        let sets = futures_util::StreamExt::chain(alone, later);
        let upstream = Upstream::builder("apps")
            .discover(discover::stream(sets))
            .balance(RoundRobin)
            .slow_start(slow_start)
            .health(
                Http::get("/readyz")
                    .interval(OFTEN)
                    .transition_interval(FAST),
            )
            .build()
            .unwrap();
        eventually("the first is there", || upstream.endpoints().len() == 1).await;
        Self {
            second,
            first,
            joins: Some(joins),
            upstream,
        }
    }

    async fn join(&mut self) {
        self.joins.take().unwrap().send(()).unwrap();
        eventually("both pass", || {
            let endpoints = self.upstream.endpoints();
            endpoints.len() == 2 && endpoints.iter().all(|e| e.health == State::Passing)
        })
        .await;
    }

    fn snapshot(&self, app: &App) -> EndpointSnapshot {
        let endpoints = self.upstream.endpoints();
        let key = app.authority();
        endpoints
            .into_iter()
            .find(|e| e.key.as_str() == key)
            .unwrap()
    }

    async fn second_of(&self, n: usize) -> usize {
        names(&self.upstream, n).await["second"]
    }
}

#[tokio::test]
async fn an_endpoint_that_joins_begins_with_a_tenth_and_without_slow_start_with_all_of_its_share() {
    let mut ramps = Pair::start(Some(windows(AN_HOUR, AN_HOUR))).await;
    ramps.join().await;
    let weight = ramps.snapshot(&ramps.second).weight_now;
    assert!((0.1..0.11).contains(&weight), "{weight}");
    let first = ramps.snapshot(&ramps.first).weight_now;
    assert_eq!(first, 1.0, "one of the first set is not new");
    // 1 of 11, give or take five deviations.
    let count = ramps.second_of(600).await;
    assert!((20..=90).contains(&count), "{count}");

    let mut at_once = Pair::start(None).await;
    at_once.join().await;
    assert_eq!(at_once.second_of(600).await, 300);
}

#[tokio::test]
async fn the_share_grows_until_it_is_whole() {
    let window = Duration::from_secs(2);
    let mut pair = Pair::start(Some(windows(window, window))).await;
    pair.join().await;
    let mut weights = vec![0.0];
    while weights.last() < Some(&1.0) {
        let weight = pair.snapshot(&pair.second).weight_now;
        assert!(weight >= *weights.last().unwrap(), "{weights:?}, {weight}");
        weights.push(weight);
        names(&pair.upstream, 10).await;
    }
    weights.dedup();
    assert!(weights.len() > 5, "it grew by steps: {weights:?}");
    assert_eq!(pair.second_of(100).await, 50);
}

#[tokio::test]
async fn an_endpoint_that_is_back_ramps_by_a_window_of_its_own() {
    let mut pair = Pair::start(Some(windows(Duration::ZERO, AN_HOUR))).await;
    pair.join().await;
    assert_eq!(pair.second_of(100).await, 50);
    for (ready, health) in [(false, State::Failing), (true, State::Passing)] {
        pair.second.ready.store(ready, Ordering::Relaxed);
        eventually("it is noticed", || {
            pair.snapshot(&pair.second).health == health
        })
        .await;
    }
    let count = pair.second_of(600).await;
    assert!((20..=90).contains(&count), "{count}");
    let weight = pair.snapshot(&pair.second).weight_now;
    assert!((0.1..0.11).contains(&weight), "{weight}");
}
