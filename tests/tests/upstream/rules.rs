//! The rules of picking at the level of an upstream, on real sockets: places, subsets, ejections, and an app's own word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::app::{App, call, names};
use crate::wait::eventually;
use axum::Router;
use axum::routing::get;
use ha_core::endpoint::Endpoint;
use ha_core::spread;
use ha_core::subset::Subset;
use ha_tower::balance::{Event, RoundRobin};
use ha_tower::discover::{self, Source};
use ha_tower::drain::{self, Drain};
use ha_tower::outlier;
use ha_tower::upstream::{self, Upstream};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

fn over(apps: &[App], place: impl Fn(usize, &mut Endpoint)) -> upstream::Builder {
    let endpoints = apps.iter().enumerate().map(|(i, app)| {
        let mut endpoint: Endpoint = app.url().parse().unwrap();
        place(i, &mut endpoint);
        endpoint
    });
    Upstream::builder("apps")
        .discover(Source::endpoints(endpoints.collect()).unwrap())
        .balance(RoundRobin)
        .slow_start(None)
}

async fn three() -> [App; 3] {
    [
        App::start("a").await,
        App::start("b").await,
        App::start("c").await,
    ]
}

#[tokio::test]
async fn an_app_that_begins_to_drain_is_left_with_its_first_answer_and_others_are_not() {
    let drains = [Drain::new(), Drain::new()];
    let mut servers = JoinSet::new();
    let mut urls = Vec::new();
    for (name, drain) in ["stays", "leaves"].into_iter().zip(&drains) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        let app = Router::new().route("/", get(move || async move { name }));
        servers.spawn(drain::serve(listener, app, drain.clone()).into_future());
    }
    let upstream = Upstream::builder("apps")
        .discover(discover::fixed(urls).unwrap())
        .balance(RoundRobin)
        .slow_start(None)
        .build()
        .unwrap();
    let before = names(&upstream, 20).await;
    assert_eq!((before["stays"], before["leaves"]), (10, 10));
    drains[1].start();
    let after = names(&upstream, 20).await;
    assert_eq!((after["stays"], after["leaves"]), (19, 1));
    let health = upstream.endpoints().into_iter().map(|e| e.health);
    let health: BTreeSet<_> = health.map(|state| format!("{state:?}")).collect();
    assert_eq!(health, ["Draining".into(), "Unchecked".into()].into());
}

#[tokio::test]
async fn the_own_zone_and_region_take_everything_and_a_misspelt_region_is_told() {
    let apps = three().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    for (region, zone, expected, events) in [
        ("here", "own", &["a"][..], 0),
        ("here", "", &["a", "b"], 0),
        ("hree", "own", &["a", "b", "c"], 1),
    ] {
        let mut config = spread::Config::default();
        config.local.region = region.into();
        config.local.zone = zone.into();
        let heard = told.clone();
        let upstream = over(&apps, |i, endpoint| {
            let (region, zone) = [("here", "own"), ("here", "other"), ("there", "own")][i];
            endpoint.locality.region = region.into();
            endpoint.locality.zone = zone.into();
        })
        .spread(config)
        .on_event(move |event| heard.lock().unwrap().push(event.clone()))
        .build()
        .unwrap();
        let picked: BTreeSet<_> = names(&upstream, 60).await.into_keys().collect();
        assert_eq!(
            picked,
            expected.iter().map(|name| (*name).to_owned()).collect()
        );
        let told = std::mem::take(&mut *told.lock().unwrap());
        let unknown = told
            .iter()
            .filter(|event| matches!(event, Event::LocalRegionUnknown { .. }));
        assert_eq!(unknown.count(), events, "{told:?}");
    }
}

#[tokio::test]
async fn a_subset_uses_as_many_as_it_says_and_clients_differ() {
    let apps = three().await;
    let mut used = BTreeSet::new();
    for client in 0..20 {
        let subset = Subset::new(format!("edge-{client}").as_bytes(), 1).unwrap();
        let upstream = over(&apps, |_, _| {}).subset(subset).build().unwrap();
        let tally = names(&upstream, 3).await;
        assert_eq!(tally.len(), 1);
        used.extend(tally.into_keys());
    }
    assert_eq!(used.len(), 3);
}

#[tokio::test]
async fn an_app_that_answers_500_is_ejected_and_the_snapshot_says_everything_about_it() {
    let apps = three().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut sick: Endpoint = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    sick.locality.region = "here".into();
    sick.locality.zone = "z1".into();
    sick = sick.with_key("0-sick");
    let app = Router::new().route("/", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }));
    let mut servers = JoinSet::new();
    servers.spawn(drain::serve(listener, app, Drain::new()).into_future());
    let mut endpoints: Vec<Endpoint> = apps.iter().map(|app| app.url().parse().unwrap()).collect();
    endpoints.push(sick);
    let upstream = Upstream::builder("apps")
        .discover(Source::endpoints(endpoints).unwrap())
        .balance(RoundRobin)
        .outlier(outlier::Config::default())
        .build()
        .unwrap();
    let sick = || upstream.endpoints().swap_remove(0);
    while sick().picks < 5 {
        drop(call(&upstream, "/").await.unwrap());
    }
    eventually("it is ejected", || sick().ejected_ms.is_some()).await;
    let tally: BTreeMap<_, _> = names(&upstream, 30).await;
    assert_eq!(tally.values().sum::<usize>(), 30);
    assert_eq!(tally.len(), 3, "{tally:?}");

    let snapshot = sick();
    assert_eq!((&*snapshot.region, &*snapshot.zone), ("here", "z1"));
    assert_eq!((snapshot.priority, snapshot.weight), (0, 1));
    assert!(!snapshot.available && snapshot.penalty_ms > 0.0);
    assert!((1.0..=30_000.0).contains(&snapshot.ejected_ms.unwrap()));
    let well = upstream.endpoints().swap_remove(1);
    assert!(well.available && well.ejected_ms.is_none() && well.penalty_ms == 0.0);
    assert!(well.picks > 10 && well.weight_now == 1.0);
    let json = serde_json::to_value(&snapshot).unwrap();
    let fields: BTreeSet<_> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let documented = [
        "address",
        "available",
        "breaker",
        "ejected_ms",
        "health",
        "idle_connections",
        "in_flight",
        "key",
        "latency_ms",
        "open_connections",
        "penalty_ms",
        "pending",
        "picks",
        "priority",
        "region",
        "weight",
        "weight_now",
        "zone",
    ];
    assert_eq!(fields, documented.into());
    assert_eq!(json["breaker"], "open");
}
