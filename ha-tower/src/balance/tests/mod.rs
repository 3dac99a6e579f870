use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ha_core::endpoint::{Endpoint, Weight};
use ha_core::{breaker, health};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::time::{advance, sleep};
use tokio_test_shim::poll_once;
use tower::{BoxError, Service, ServiceExt as _};

use super::*;
use crate::tried::Tried;

mod events;
mod laws;
mod rules;
mod shares;

/// Polling a future once, with a waker that does nothing.
mod tokio_test_shim {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    pub(super) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }
}

fn endpoint(key: &str) -> Endpoint {
    let address = "http://127.0.0.1:1".parse().unwrap();
    Endpoint::new(address).with_key(key)
}

/// An endpoint that says its name after `latency`, or fails while it is broken.
#[derive(Debug, Clone)]
struct Fake {
    name: &'static str,
    latency_millis: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Fake {
    fn new(name: &'static str, millis: u64) -> Self {
        Self {
            name,
            latency_millis: Arc::new(AtomicU64::new(millis)),
            broken: Arc::default(),
        }
    }

    fn with_endpoint(&self) -> (Endpoint, Self) {
        (endpoint(self.name), self.clone())
    }
}

impl Service<Request<()>> for Fake {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = BoxError;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if this.broken.load(Ordering::Relaxed) {
                return Err("broken".into());
            }
            let millis = this.latency_millis.load(Ordering::Relaxed);
            sleep(Duration::from_millis(millis)).await;
            Ok(Response::new(Full::from(this.name)))
        })
    }
}

fn balance(fakes: &[Fake], policy: impl Into<Policy>) -> Balance<Fake, Http> {
    // Shares are counted here; how they grow is another test's.
    Balance::builder(fakes.iter().map(Fake::with_endpoint))
        .policy(policy)
        .slow_start(None)
        .protocol(Http)
        .build()
        .unwrap()
}

async fn name_of(response: Response<Body<Full<bytes::Bytes>>>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// How often each answered among `n` calls, one after the other with `gap` between; failures under "error".
async fn tally(balance: &Balance<Fake, Http>, n: usize, gap: Duration) -> HashMap<String, usize> {
    let mut tally = HashMap::new();
    for _ in 0..n {
        // A clone per call, as axum does.
        let name = match balance.clone().oneshot(Request::new(())).await {
            Ok(response) => name_of(response).await,
            Err(_) => "error".to_owned(),
        };
        *tally.entry(name).or_default() += 1;
        sleep(gap).await;
    }
    tally
}

fn set_health(balance: &Balance<Fake, Http>, key: &str, passing: bool) {
    let states = balance.states();
    let (_, state) = states.iter().find(|(e, _)| e.key.as_str() == key).unwrap();
    let to = if passing {
        health::State::Passing
    } else {
        health::State::Failing
    };
    state.set_health(to, passing);
}

fn never_trips() -> breaker::Config {
    let mut config = breaker::Config::default();
    config.consecutive_failures = u32::MAX;
    config.minimum_calls = u32::MAX;
    config
}

const GAP: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn round_robin_gives_each_exactly_its_share_over_fresh_clones() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("c", 1)];
    let tally = tally(&balance(&fakes, RoundRobin), 300, GAP).await;
    assert_eq!(tally.values().copied().collect::<Vec<_>>(), [100, 100, 100]);
}

#[tokio::test(start_paused = true)]
async fn the_slow_one_of_three_gets_next_to_nothing_by_cost_and_a_third_by_turn() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("slow", 100)];
    let by_cost = tally(&balance(&fakes, P2c::peak_ewma()), 2_000, GAP).await;
    let by_turn = tally(&balance(&fakes, RoundRobin), 2_000, GAP).await;
    assert!(by_cost["slow"] < 40, "{by_cost:?}");
    assert!(by_turn["slow"] > 600, "{by_turn:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_becomes_fast_again_is_noticed() {
    let fakes = [Fake::new("a", 5), Fake::new("b", 2_000)];
    let balance = balance(&fakes, P2c::peak_ewma());
    let slow = tally(&balance, 1_000, GAP).await;
    assert!(slow["b"] < 20, "{slow:?}");
    fakes[1].latency_millis.store(5, Ordering::Relaxed);
    // From 2 s to 5 ms is six times the memory of the estimate: a minute of traffic.
    tally(&balance, 14_000, GAP).await;
    let later = tally(&balance, 1_000, GAP).await;
    assert!(later["b"] > 300, "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn the_slowest_endpoint_still_gets_a_probe_now_and_then() {
    let fakes = [Fake::new("a", 5), Fake::new("slow", 1_000)];
    // Twenty seconds. By its decay alone the estimate needs fifty to win a comparison.
    let tally = tally(&balance(&fakes, P2c::peak_ewma()), 3_300, GAP).await;
    assert!((2..=5).contains(&tally["slow"]), "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fast_failing_endpoint_does_not_attract_traffic_even_without_a_breaker() {
    let fakes = [Fake::new("good", 20), Fake::new("bad", 0)];
    fakes[1].broken.store(true, Ordering::Relaxed);
    for policy in [P2c::peak_ewma(), P2c::least_request()] {
        let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
            .policy(policy)
            .breaker(never_trips())
            .protocol(Http)
            .build()
            .unwrap();
        let tally = tally(&balance, 1_000, GAP).await;
        assert!(tally["error"] < 30, "{policy:?}: {tally:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_its_check_gets_nothing_although_it_answers() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1)];
    for policy in [
        Policy::from(RoundRobin),
        P2c::peak_ewma().into(),
        P2c::least_request().into(),
    ] {
        let balance = balance(&fakes, policy.clone());
        set_health(&balance, "b", false);
        assert_eq!(tally(&balance, 100, GAP).await["a"], 100, "{policy:?}");
        set_health(&balance, "b", true);
        assert!(tally(&balance, 100, GAP).await["b"] > 20, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_available_is_an_error_at_once_and_never_pending() {
    let fakes = [Fake::new("a", 1)];
    let mut balance = balance(&fakes, P2c::peak_ewma());
    set_health(&balance, "a", false);
    let mut call = Box::pin(balance.call(Request::new(())));
    let std::task::Poll::Ready(Err(error)) = poll_once(&mut call) else {
        panic!("must be an error at once");
    };
    assert!(error.is_unavailable());
    assert_eq!(error.to_string(), "no available endpoint (1 known)");
    balance.update([], |_| unreachable!()).unwrap();
    let error = balance
        .oneshot(Request::new(()))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.to_string(), "no available endpoint (0 known)");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_passed_over_and_gets_single_probes_when_its_wait_is_over() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("c", 1)];
    let balance = balance(&fakes, RoundRobin);
    fakes[2].broken.store(true, Ordering::Relaxed);
    let first = tally(&balance, 60, GAP).await;
    assert_eq!(first["error"], 5, "consecutive failures trip it: {first:?}");
    assert!(!balance.is_panicking());
    fakes[2].broken.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(10)).await;
    let later = tally(&balance, 60, GAP).await;
    assert!(
        later["c"] >= 18 && !later.contains_key("error"),
        "{later:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_breaker_round_robin_keeps_sending_to_what_fails() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("c", 1)];
    let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
        .policy(RoundRobin)
        .breaker(never_trips())
        .protocol(Http)
        .build()
        .unwrap();
    fakes[2].broken.store(true, Ordering::Relaxed);
    assert_eq!(tally(&balance, 60, GAP).await["error"], 20);
}

#[tokio::test(start_paused = true)]
async fn with_most_breakers_open_all_that_pass_their_check_are_tried_again() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("sick", 1)];
    let balance = balance(&fakes, RoundRobin);
    set_health(&balance, "sick", false);
    for fake in &fakes {
        fake.broken.store(true, Ordering::Relaxed);
    }
    tally(&balance, 20, GAP).await;
    assert!(balance.is_panicking());
    for fake in &fakes {
        fake.broken.store(false, Ordering::Relaxed);
    }
    let tally = tally(&balance, 20, GAP).await;
    assert!(
        !tally.contains_key("sick"),
        "an active failure is never ignored: {tally:?}"
    );
    assert!(!tally.contains_key("error"), "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn tried_endpoints_are_avoided_while_another_is_available() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("c", 1)];
    for policy in [Policy::from(RoundRobin), P2c::peak_ewma().into()] {
        let balance = balance(&fakes, policy.clone());
        for _ in 0..50 {
            let tried = Tried::new();
            for attempt in 1..=3 {
                let mut request = Request::new(());
                request.extensions_mut().insert(tried.clone());
                drop(balance.clone().oneshot(request).await.unwrap());
                assert_eq!(tried.len(), attempt);
            }
            let mut keys = tried.snapshot();
            keys.sort();
            keys.dedup();
            assert_eq!(
                keys.len(),
                3,
                "three attempts, three endpoints ({policy:?})"
            );
            let mut request = Request::new(());
            request.extensions_mut().insert(tried.clone());
            let fourth = balance.clone().oneshot(request).await;
            assert!(fourth.is_ok(), "all were tried: one of them serves");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_pick_is_recorded_before_the_attempt() {
    let balance = balance(&[Fake::new("a", 1_000)], P2c::peak_ewma());
    let tried = Tried::new();
    let mut request = Request::new(());
    request.extensions_mut().insert(tried.clone());
    let never_polled = balance.clone().call(request);
    assert_eq!(tried.snapshot(), ["a".into()]);
    drop(never_polled);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_body_ends_wherever_it_is_dropped() {
    let balance = balance(&[Fake::new("a", 1_000)], P2c::peak_ewma());
    let call = || Box::pin(balance.clone().call(Request::new(())));

    let unpolled = call();
    assert_eq!(balance.in_flight(), 1);
    drop(unpolled);
    assert_eq!(balance.in_flight(), 0, "dropped before the first poll");

    let mut waiting = call();
    assert!(poll_once(&mut waiting).is_pending());
    assert_eq!(balance.in_flight(), 1);
    drop(waiting);
    assert_eq!(balance.in_flight(), 0, "dropped while the endpoint works");

    let response = call().await.unwrap();
    assert_eq!(balance.in_flight(), 1, "the body has not been read");
    drop(response);
    assert_eq!(balance.in_flight(), 0, "dropped with the body unread");

    let mut response = call().await.unwrap();
    let frame = response.body_mut().frame().await;
    assert!(frame.is_some());
    assert_eq!(
        balance.in_flight(),
        0,
        "ended with its last frame, though still held"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_its_service_is_not_ready_gives_its_place_back() {
    let (mock, handle) = tower_test::mock::pair::<(), ()>();
    let balance = Balance::builder([(endpoint("a"), mock)]).build().unwrap();
    let mut handle = std::pin::pin!(handle);
    handle.allow(0);
    let mut call = Box::pin(balance.clone().call(()));
    assert!(poll_once(&mut call).is_pending());
    assert_eq!(balance.in_flight(), 1);
    drop(call);
    assert_eq!(balance.in_flight(), 0);

    handle.allow(1);
    let mut call = Box::pin(balance.clone().call(()));
    assert!(poll_once(&mut call).is_pending());
    let ((), respond) = handle.next_request().await.unwrap();
    respond.send_response(());
    call.await.unwrap();
    assert_eq!(balance.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_leaves_room_for_the_next() {
    let fakes = [Fake::new("a", 10), Fake::new("b", 10)];
    let balance = balance(&fakes, RoundRobin);
    fakes[1].broken.store(true, Ordering::Relaxed);
    tally(&balance, 20, GAP).await;
    fakes[1].broken.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(10)).await;
    for _ in 0..10 {
        let mut probe = Box::pin(balance.clone().call(Request::new(())));
        assert!(poll_once(&mut probe).is_pending());
    }
    let tally = tally(&balance, 20, GAP).await;
    assert!(tally["b"] >= 8, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_makes_its_endpoint_look_as_slow_as_it_was() {
    let balance = balance(&[Fake::new("frozen", 1_000_000)], P2c::peak_ewma());
    let mut call = Box::pin(balance.clone().call(Request::new(())));
    assert!(poll_once(&mut call).is_pending());
    advance(Duration::from_secs(3)).await;
    drop(call);
    let (_, state) = balance.states().remove(0);
    let estimate = state.load.estimate(crate::clock::now());
    assert!(estimate > Duration::from_millis(2_990), "{estimate:?}");
}

#[tokio::test(start_paused = true)]
async fn state_survives_a_new_discovery_and_a_new_weight() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1)];
    let balance = balance(&fakes, RoundRobin);
    set_health(&balance, "b", false);
    tally(&balance, 4, GAP).await;
    let heavy = endpoint("b").with_weight(Weight::new(9).unwrap());
    balance
        .update([endpoint("a"), heavy], |_| {
            unreachable!("no address has changed")
        })
        .unwrap();
    let (_, state) = balance
        .states()
        .into_iter()
        .find(|(e, _)| e.key.as_str() == "b")
        .unwrap();
    assert_eq!(state.health(), health::State::Failing);
    assert_eq!(tally(&balance, 10, GAP).await["a"], 10);
}

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_finishes_what_is_in_flight_and_gets_no_more() {
    let fakes = [Fake::new("a", 50), Fake::new("b", 50)];
    let balance = balance(&fakes, RoundRobin);
    let mut calls: Vec<_> = (0..4)
        .map(|_| Box::pin(balance.clone().call(Request::new(()))))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call).is_pending());
    }
    balance.update([endpoint("a")], |_| unreachable!()).unwrap();
    let mut names = Vec::new();
    for call in calls {
        names.push(name_of(call.await.unwrap()).await);
    }
    names.sort();
    assert_eq!(names, ["a", "a", "b", "b"]);
    assert_eq!(tally(&balance, 10, GAP).await["a"], 10);
}

#[test]
fn statuses_count_as_documented() {
    let verdict = |status: u16, retry_after: Option<&str>| {
        let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        if let Some(text) = retry_after {
            response = response.header("retry-after", text);
        }
        let response = response.body(String::new()).unwrap();
        let protocol: &dyn Protocol<Request<()>, Response<String>, (), Response = _> = &Http;
        protocol.classify(Ok(&response))
    };
    for status in [200, 204, 301, 400, 404, 499] {
        assert_eq!(verdict(status, None), Verdict::success(), "{status}");
    }
    for status in [500, 502, 503, 504] {
        assert_eq!(verdict(status, None), Verdict::failure(), "{status}");
    }
    let seven = Some(Duration::from_secs(7));
    assert_eq!(
        verdict(429, Some("7")),
        Verdict::overloaded().retry_after(seven)
    );
    assert_eq!(
        verdict(502, Some(" 7 ")),
        Verdict::failure().retry_after(seven)
    );
    assert_eq!(
        verdict(503, Some("7")),
        Verdict::pushed_back(Duration::from_secs(7))
    );
    for nonsense in [
        "-1",
        "soon",
        "",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "99999999999999999999999",
    ] {
        assert_eq!(
            verdict(503, Some(nonsense)),
            Verdict::failure(),
            "{nonsense}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_breakers_failures_take_nobody_out_and_with_them_they_do() {
    for (breaker, errors) in [(None, 200), (Some(breaker::Config::default()), 5)] {
        let fakes = [Fake::new("a", 1), Fake::new("b", 1)];
        fakes[0].broken.store(true, Ordering::Relaxed);
        let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
            .policy(RoundRobin)
            .breaker(breaker)
            .protocol(Http)
            .build()
            .unwrap();
        let tally = tally(&balance, 400, GAP).await;
        assert_eq!(tally["error"], errors, "{tally:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_pushes_back_on_purpose_keeps_its_breaker_closed_and_one_that_fails_does_not() {
    for (retry_after, open) in [(Some("1"), 0), (None, 3)] {
        let answer = move |_: Request<()>| async move {
            let mut response = Response::builder().status(503);
            if let Some(text) = retry_after {
                response = response.header("retry-after", text);
            }
            Ok::<_, BoxError>(response.body(String::new()).unwrap())
        };
        let apps = ["a", "b", "c"].map(|key| (endpoint(key), tower::service_fn(answer)));
        let balance = Balance::builder(apps).protocol(Http).build().unwrap();
        for _ in 0..300 {
            drop(balance.clone().oneshot(Request::new(())).await.unwrap());
            sleep(GAP).await;
        }
        let states = balance.states();
        let opened = states
            .iter()
            .filter(|(_, state)| !state.breaker().unwrap().is_closed())
            .count();
        assert_eq!(opened, open, "Retry-After: {retry_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_and_comes_back_with_requests_in_flight_is_known_and_who_comes_back_later_is_new()
 {
    let fakes = [Fake::new("a", 60_000), Fake::new("b", 1)];
    let balance = balance(&fakes, RoundRobin);
    let come = |names: &[&str]| {
        let all = names.iter().copied().map(endpoint);
        balance.update(all, |_| fakes[0].clone()).unwrap();
    };
    let in_flight = |key: &str| {
        let states = balance.states();
        let (_, state) = states.iter().find(|(e, _)| e.key.as_str() == key).unwrap();
        state.load.in_flight()
    };
    let slow: Vec<_> = (0..2)
        .map(|_| tokio::spawn(balance.clone().oneshot(Request::new(()))))
        .collect();
    sleep(GAP * 10).await;
    set_health(&balance, "a", false);
    assert_eq!(in_flight("a"), 1);

    come(&["b"]);
    come(&["a", "b"]);
    assert_eq!(in_flight("a"), 1);
    assert_eq!(
        tally(&balance, 10, GAP).await.get("a"),
        None,
        "still failing"
    );

    come(&["b"]);
    for call in slow {
        drop(call.await.unwrap());
    }
    come(&["a", "b"]);
    assert_eq!(in_flight("a"), 0);
    let states = balance.states();
    assert!(states.iter().all(|(_, state)| state.is_healthy()));
    assert!(super::changes::lock(&balance.shared.control.departed).is_empty());
}
