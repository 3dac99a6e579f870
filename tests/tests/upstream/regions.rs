//! A region that says of itself that it is sick.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::endpoint::Endpoint;
use ha_core::health::State;
use ha_core::spread;
use ha_tower::balance::RoundRobin;
use ha_tower::discover::Source;
use ha_tower::health::Http;
use ha_tower::upstream::Upstream;

use crate::app::{App, names};
use crate::wait::eventually;

const OFTEN: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(25);

/// Three apps in the caller's own region and one elsewhere.
struct Regions {
    here: [App; 3],
    there: App,
    upstream: Upstream,
}

impl Regions {
    async fn start() -> Self {
        let here = [
            App::start("here-1").await,
            App::start("here-2").await,
            App::start("here-3").await,
        ];
        let there = App::start("there").await;
        let place = |app: &App, region: &str| {
            let mut endpoint: Endpoint = app.url().parse().unwrap();
            endpoint.locality.region = region.into();
            endpoint
        };
        let mut endpoints: Vec<_> = here.iter().map(|app| place(app, "here")).collect();
        endpoints.push(place(&there, "there"));
        let mut spread = spread::Config::default();
        spread.local.region = "here".into();
        let upstream = Upstream::builder("apps")
            .discover(Source::endpoints(endpoints).unwrap())
            .balance(RoundRobin)
            .spread(spread)
            // These tests count whole shares.
            .slow_start(None)
            .health(
                Http::get("/readyz")
                    .interval(OFTEN)
                    .transition_interval(FAST),
            )
            .build();
        Self {
            here,
            there,
            upstream: upstream.unwrap(),
        }
    }

    fn count(&self, state: State) -> usize {
        let endpoints = self.upstream.endpoints();
        endpoints.iter().filter(|e| e.health == state).count()
    }

    /// The first two are not ready from now on, and may say that the whole region is not.
    async fn two_fail(&self, region_sick: bool) {
        for app in &self.here[..2] {
            app.region_sick.store(region_sick, Ordering::Relaxed);
            app.ready.store(false, Ordering::Relaxed);
        }
        let state = if region_sick {
            State::RegionSick
        } else {
            State::Failing
        };
        eventually("two have said so", || self.count(state) == 2).await;
    }

    async fn all_are_well(&self) {
        for app in &self.here {
            app.ready.store(true, Ordering::Relaxed);
        }
        eventually("all are well", || self.count(State::Passing) == 4).await;
    }

    async fn shares(&self) -> BTreeMap<String, usize> {
        names(&self.upstream, 300).await
    }
}

fn all_here() -> BTreeMap<String, usize> {
    ["here-1", "here-2", "here-3"]
        .map(|name| (name.to_owned(), 100))
        .into()
}

#[tokio::test]
async fn a_region_that_says_it_is_sick_is_skipped_as_a_whole_and_comes_back() {
    let regions = Regions::start().await;
    regions.all_are_well().await;
    assert_eq!(regions.shares().await, all_here());
    regions.two_fail(true).await;
    // The third one passes its checks, and is in the sick region.
    assert_eq!(regions.shares().await, [("there".to_owned(), 300)].into());
    regions.all_are_well().await;
    assert_eq!(regions.shares().await, all_here());
}

#[tokio::test]
async fn without_the_word_the_same_failures_leave_the_rest_of_the_region_its_share() {
    let regions = Regions::start().await;
    regions.two_fail(false).await;
    let shares = regions.shares().await;
    // 1.4 times a third of the region is left.
    assert!((90..=190).contains(&shares["here-3"]), "{shares:?}");
    assert_eq!(shares["here-3"] + shares["there"], 300, "{shares:?}");
}

#[tokio::test]
async fn when_every_region_is_sick_the_word_of_one_decides_nothing() {
    let regions = Regions::start().await;
    regions.there.ready.store(false, Ordering::Relaxed);
    regions.two_fail(true).await;
    eventually("there is nothing elsewhere", || {
        regions.count(State::Failing) == 1
    })
    .await;
    let shares = regions.shares().await;
    assert_eq!(shares.get("there"), None, "{shares:?}");
    assert_eq!(shares.values().sum::<usize>(), 300, "{shares:?}");
    assert!(shares["here-3"] >= 100, "{shares:?}");
}
