//! `Upstream` against real servers on loopback: what is broken gets no traffic, and the naive way shows that it would.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::app::{App, call, names};
use crate::wait::eventually;
use bytes::Bytes;
use futures_util::FutureExt as _;
use ha_core::health::State;
use ha_tower::balance::{P2c, RoundRobin};
use ha_tower::health::{Check, Http, Start};
use ha_tower::upstream::{self, Upstream};
use ha_tower::{breaker, discover};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

const FAST: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(10);

async fn start<const N: usize>(names: [&'static str; N]) -> [App; N] {
    let apps = futures_util::future::join_all(names.map(App::start)).await;
    apps.try_into().unwrap()
}

fn over<'a>(apps: impl IntoIterator<Item = &'a App>) -> upstream::Builder {
    let urls = apps.into_iter().map(App::url);
    Upstream::builder("apps")
        .discover(discover::fixed(urls).unwrap())
        // These tests count whole shares.
        .slow_start(None)
}

fn fast_checks() -> Check<Http> {
    Http::get("/readyz")
        .interval(10 * FAST)
        .transition_interval(FAST)
}

fn never_trips() -> breaker::Config {
    let mut config = breaker::Config::default();
    config.consecutive_failures = u32::MAX;
    config.minimum_calls = u32::MAX;
    config
}

fn endpoint(upstream: &Upstream, app: &App) -> ha_tower::upstream::EndpointSnapshot {
    let key = app.authority();
    upstream
        .endpoints()
        .into_iter()
        .find(|e| e.key.as_str() == key)
        .unwrap()
}

#[tokio::test]
async fn an_app_that_fails_its_readyz_gets_no_traffic_although_it_still_answers() {
    let apps = start(["a", "b", "c"]).await;
    let upstream = over(&apps)
        .balance(RoundRobin)
        .health(fast_checks())
        .build()
        .unwrap();
    assert_eq!(names(&upstream, 30).await["b"], 10);

    apps[1].ready.store(false, Ordering::Relaxed);
    eventually("b is failing", || {
        endpoint(&upstream, &apps[1]).health == State::Failing
    })
    .await;
    let tally = names(&upstream, 30).await;
    assert_eq!(tally.get("b"), None, "{tally:?}");

    apps[1].ready.store(true, Ordering::Relaxed);
    eventually("b is back", || endpoint(&upstream, &apps[1]).available).await;
    assert_eq!(names(&upstream, 30).await["b"], 10);
}

#[tokio::test]
async fn without_health_checks_the_same_app_keeps_getting_its_share() {
    let apps = start(["a", "b", "c"]).await;
    let upstream = over(&apps).balance(RoundRobin).build().unwrap();
    apps[1].ready.store(false, Ordering::Relaxed);
    assert_eq!(names(&upstream, 30).await["b"], 10);
}

#[tokio::test]
async fn two_of_three_failing_their_checks_never_come_back_by_panic() {
    let apps = start(["a", "b", "c"]).await;
    for app in &apps[1..] {
        app.ready.store(false, Ordering::Relaxed);
    }
    let upstream = over(&apps)
        .health(fast_checks().start(Start::FirstPass))
        .build()
        .unwrap();
    tokio::time::timeout(DEADLINE, upstream.ready())
        .await
        .unwrap();
    let failing = || {
        upstream
            .endpoints()
            .iter()
            .filter(|e| e.health == State::Failing)
            .count()
    };
    eventually("two are failing", || failing() == 2).await;
    let tally = names(&upstream, 30).await;
    assert_eq!(
        tally.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), 30)]
    );
}

#[tokio::test]
async fn one_check_that_hangs_delays_no_other() {
    let apps = start(["hangs", "b"]).await;
    apps[0].frozen.store(true, Ordering::Relaxed);
    let upstream = over(&apps)
        .health(
            fast_checks()
                .interval(Duration::from_secs(30))
                .timeout(Duration::from_secs(30))
                .start(Start::FirstPass),
        )
        .build()
        .unwrap();
    eventually("b passes", || {
        endpoint(&upstream, &apps[1]).health == State::Passing
    })
    .await;
    assert_eq!(endpoint(&upstream, &apps[0]).health, State::Unchecked);
}

#[tokio::test]
async fn a_frozen_app_costs_a_few_timeouts_and_then_nothing() {
    let apps = start(["a", "b", "frozen"]).await;
    let build = |breaker: breaker::Config| {
        over(&apps)
            .balance(RoundRobin)
            .breaker(breaker)
            .attempt_timeout(Duration::from_millis(100))
            .build()
            .unwrap()
    };
    let guarded = build(breaker::Config::default());
    let naive = build(never_trips());
    apps[2].frozen.store(true, Ordering::Relaxed);
    let tally = names(&guarded, 60).await;
    assert_eq!(
        tally["timeout"], 5,
        "five in a row open the breaker: {tally:?}"
    );
    assert_eq!(
        endpoint(&guarded, &apps[2]).breaker,
        ha_core::breaker::State::Open
    );
    let tally = names(&naive, 60).await;
    assert_eq!(
        tally["timeout"], 20,
        "a third of all without a breaker: {tally:?}"
    );
}

#[tokio::test]
async fn a_slow_app_is_avoided_by_cost_and_not_by_turn() {
    let apps = start(["a", "b", "slow"]).await;
    let build = || over(&apps);
    apps[2].delay_millis.store(50, Ordering::Relaxed);
    let by_cost = names(&build().balance(P2c::peak_ewma()).build().unwrap(), 200).await;
    let by_turn = names(&build().balance(RoundRobin).build().unwrap(), 60).await;
    let slow = by_cost.get("slow").copied().unwrap_or(0);
    assert!(slow <= 20, "{by_cost:?}");
    assert_eq!(by_turn["slow"], 20, "{by_turn:?}");
}

#[tokio::test]
async fn a_killed_app_is_a_connect_error_that_was_never_sent_and_soon_left_alone() {
    let [a, b] = start(["a", "b"]).await;
    let upstream = over([&a, &b])
        .balance(RoundRobin)
        .health(fast_checks())
        .build()
        .unwrap();
    assert_eq!(names(&upstream, 10).await["b"], 5);
    b.kill().await;
    let tally = names(&upstream, 40).await;
    assert!(tally["a"] >= 20, "{tally:?}");
    let errors = tally
        .iter()
        .filter(|(name, _)| *name != "a")
        .map(|(_, n)| n)
        .sum::<usize>();
    assert!(errors <= 8, "{tally:?}");
    eventually("b is failing", || {
        upstream
            .endpoints()
            .iter()
            .any(|e| e.health == State::Failing)
    })
    .await;
    assert_eq!(names(&upstream, 20).await["a"], 20);
}

#[tokio::test]
async fn errors_say_whether_the_request_can_have_reached_the_app() {
    let app = App::start("a").await;
    let upstream = over([&app])
        .attempt_timeout(Duration::from_millis(100))
        .build()
        .unwrap();

    app.frozen.store(true, Ordering::Relaxed);
    let error = call(&upstream, "/").await.unwrap_err();
    assert!(
        error.is_timeout() && !error.is_unsent() && !error.is_connect(),
        "{error:?}"
    );
    app.frozen.store(false, Ordering::Relaxed);

    app.kill().await;
    // Pooled connections die with the app: the first call may find one of those.
    let error = call(&upstream, "/").await.unwrap_err();
    let error = if error.is_connect() {
        error
    } else {
        call(&upstream, "/").await.unwrap_err()
    };
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
}

#[tokio::test]
async fn a_connection_closed_after_the_request_was_read_does_not_count_as_unsent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
    });
    let upstream = Upstream::builder("apps")
        .discover(discover::fixed([url]).unwrap())
        .build()
        .unwrap();
    let error = call(&upstream, "/").await.unwrap_err();
    server.await.unwrap();
    assert!(
        matches!(error, upstream::Error::Exchange { .. }),
        "{error:?}"
    );
    assert!(!error.is_unsent() && !error.is_timeout() && !error.is_connect());
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_ends_and_cancelling_gives_it_back() {
    let app = App::start("a").await;
    let upstream = over([&app]).build().unwrap();
    let in_flight = || upstream.endpoints()[0].in_flight;

    let response = call(&upstream, "/").await.unwrap();
    assert_eq!(in_flight(), 1);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((&body[..], in_flight()), (&b"a"[..], 0));

    let response = call(&upstream, "/drip").await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(in_flight(), 1);
    drop(body);
    assert_eq!(in_flight(), 0);

    app.frozen.store(true, Ordering::Relaxed);
    let cancelled = tokio::time::timeout(FAST, call(&upstream, "/")).await;
    assert!(cancelled.is_err());
    assert_eq!(in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_streams_passes_both_ways_and_may_outlast_the_attempt_timeout() {
    let app = App::start("a").await;
    let upstream = over([&app])
        .attempt_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let body = Bytes::from(vec![7; 300_000]);
    let request = Request::post("/echo?q=1")
        .body(Full::new(body.clone()))
        .unwrap();
    let response = upstream.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        body
    );

    let slow = call(&upstream, "/drip").await.unwrap();
    let text = slow.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "dripdripdripdrip");
}

#[tokio::test]
async fn checks_end_with_the_last_clone() {
    let app = App::start("a").await;
    let upstream = over([&app]).health(fast_checks()).build().unwrap();
    let clone = upstream.clone();
    eventually("it is checked", || app.checks.load(Ordering::Relaxed) > 0).await;
    drop(upstream);
    let before = app.checks.load(Ordering::Relaxed);
    eventually("a clone keeps it", || {
        app.checks.load(Ordering::Relaxed) > before + 2
    })
    .await;
    // The app has a runtime of its own: on this one only the upstream has tasks.
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    assert_ne!(tasks(), 0);
    drop(clone);
    eventually("no task is left", || tasks() == 0).await;
}

#[tokio::test]
async fn bad_settings_are_refused_by_field_and_value() {
    let builder = || Upstream::builder("apps").discover(discover::fixed(["http://a"]).unwrap());
    for (builder, message) in [
        (
            builder().connect_timeout(Duration::ZERO),
            "connect_timeout is 0ns: ",
        ),
        (
            builder().attempt_timeout(Duration::ZERO),
            "attempt_timeout is 0ns: ",
        ),
        (
            builder().health(Http::get("readyz")),
            "health.path is \"readyz\": ",
        ),
        (builder().health(Http::get("")), "health.path is \"\": "),
        (
            builder().health(Http::get("/r").timeout(Duration::ZERO)),
            "health.timeout is 0ns: ",
        ),
        (
            builder().health(Http::get("/r").interval(FAST).timeout(2 * FAST)),
            "health.interval is 50ms: must not be shorter than health.timeout",
        ),
        (
            builder().health(Http::get("/r").fall(0)),
            "health.fall is 0: ",
        ),
        (
            builder().health(Http::get("/r").interval(Duration::ZERO)),
            "health.interval is 0ns: ",
        ),
    ] {
        let error = builder.build().map(drop).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with(message), "{source}");
    }
    let error = Upstream::builder("apps").build().map(drop).unwrap_err();
    assert_eq!(error.to_string(), "upstream \"apps\" has no discover(..)");
}

#[tokio::test]
async fn nothing_to_pick_is_an_error_at_once_and_not_ready_until_a_check_passes() {
    let app = App::start("a").await;
    app.ready.store(false, Ordering::Relaxed);
    let upstream = over([&app])
        .health(fast_checks().start(Start::FirstPass))
        .build()
        .unwrap();
    let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let error = upstream
        .clone()
        .oneshot(request)
        .await
        .map(drop)
        .unwrap_err();
    assert!(error.is_unavailable() && error.is_unsent());
    assert_eq!(
        error.to_string(),
        "upstream \"apps\" has no available endpoint (1 known)"
    );
    eventually("it failed its checks", || {
        endpoint(&upstream, &app).health == State::Failing
    })
    .await;
    assert!(upstream.ready().now_or_never().is_none());
    app.ready.store(true, Ordering::Relaxed);
    tokio::time::timeout(DEADLINE, upstream.ready())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connections_is_left_however_short_the_attempt_timeout() {
    let app = App::start("a").await;
    // What is full of connections that nobody accepts drops those that come after.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(FAST, tokio::net::TcpStream::connect(address)).await
    {
        waiting.push(connected.unwrap());
    }
    let build = |breaker: breaker::Config| {
        Upstream::builder("apps")
            .discover(discover::fixed([app.url(), format!("http://{address}")]).unwrap())
            .balance(RoundRobin)
            .breaker(breaker)
            .connect_timeout(Duration::from_secs(10))
            .attempt_timeout(Duration::from_millis(100))
            .build()
            .unwrap()
    };
    let tally = names(&build(breaker::Config::default()), 60).await;
    assert_eq!(
        tally["connect"], 5,
        "five in a row open the breaker: {tally:?}"
    );
    let tally = names(&build(never_trips()), 20).await;
    assert_eq!(tally["connect"], 10, "the control: {tally:?}");
}
