use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::endpoint::Endpoint;
use tokio::time::{Instant, sleep};
use tower::BoxError;

use super::*;
use crate::balance::{self, Balance};

const SECOND: Duration = Duration::from_secs(1);

/// What an endpoint does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Says(Finding),
    Fails,
    Hangs,
    Panics,
}

use Does::{Fails, Hangs, Panics, Says};
const PASSES: Does = Says(Finding::Pass);

/// Endpoints without sockets that do as they are told, and a log of who was asked when.
#[derive(Debug, Default)]
struct World {
    does: Mutex<HashMap<String, Does>>,
    asked: Mutex<Vec<(Instant, String)>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// One check that is under way.
struct UnderWay(Arc<World>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl World {
    fn set(&self, key: &str, does: Does) {
        self.does.lock().unwrap().insert(key.to_owned(), does);
    }

    fn enter(self: &Arc<Self>, endpoint: &Endpoint) -> (UnderWay, Does) {
        let key = endpoint.key.as_str().to_owned();
        let does = self.does.lock().unwrap().get(&key).copied();
        self.asked.lock().unwrap().push((Instant::now(), key));
        let now = 1 + self.under_way.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(now, Ordering::Relaxed);
        (UnderWay(self.clone()), does.unwrap_or(PASSES))
    }

    async fn ask(self: Arc<Self>, endpoint: Endpoint) -> Result<Finding, BoxError> {
        let (_under_way, does) = self.enter(&endpoint);
        match does {
            Says(finding) => Ok(finding),
            Fails => Err("as told".into()),
            Hangs => std::future::pending().await,
            Panics => panic!("as told"),
        }
    }

    /// Seconds since `start` at which this endpoint was asked.
    fn times(&self, key: &str, start: Instant) -> Vec<f64> {
        let asked = self.asked.lock().unwrap();
        let of_key = asked.iter().filter(|(_, asked)| asked == key);
        let seconds = of_key.map(|(at, _)| (*at - start).as_secs_f64());
        seconds.map(|at| (at * 10.0).round() / 10.0).collect()
    }

    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, key) in self.asked.lock().unwrap().iter() {
            *counts.entry(key.clone()).or_default() += 1;
        }
        counts
    }
}

type Told = Arc<Mutex<Vec<String>>>;

/// The checks of some endpoints, with the default numbers but no jitter.
struct Fleet {
    world: Arc<World>,
    balance: Balance<()>,
    checks: Checks,
    told: Told,
    start: Instant,
}

fn endpoint(key: &str) -> Endpoint {
    at(key, "http://127.0.0.1:1")
}

fn at(key: &str, address: &str) -> Endpoint {
    Endpoint::new(address.parse().unwrap()).with_key(key)
}

impl Fleet {
    fn new<'a>(
        keys: impl IntoIterator<Item = &'a str>,
        does: &[(&str, Does)],
        settings: impl FnOnce(Check) -> Check,
    ) -> Self {
        let world = Arc::new(World::default());
        for (key, does) in does {
            world.set(key, *does);
        }
        let told = Told::default();
        let (asked, log) = (world.clone(), told.clone());
        let check: Check = custom(move |endpoint| asked.clone().ask(endpoint))
            .jitter_ratio(0.0)
            .on_event(move |event| log.lock().unwrap().push(line(event)))
            .into();
        let check = settings(check);
        let members = keys.into_iter().map(|key| (endpoint(key), ()));
        let balance = Balance::builder(members)
            .available_at_first(check.starts_available())
            .build()
            .unwrap();
        let checks = Checks::start(check, "fleet".into()).unwrap();
        checks.follow(balance.states());
        Self {
            world,
            balance,
            checks,
            told,
            start: Instant::now(),
        }
    }

    fn update(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.balance.update(endpoints, |_| ()).unwrap();
        self.checks.follow(self.balance.states());
    }

    fn state(&self, key: &str) -> Arc<balance::State> {
        let states = self.balance.states();
        let found = states.into_iter().find(|(e, _)| e.key.as_str() == key);
        found.unwrap().1
    }

    fn health(&self, key: &str) -> State {
        self.state(key).health()
    }

    fn times(&self, key: &str) -> Vec<f64> {
        self.world.times(key, self.start)
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

fn line(event: &Event) -> String {
    let reason = match &event.reason {
        Reason::Failed(failure) => failure.to_string(),
        reason => format!("{reason:?}"),
    };
    let Event {
        upstream,
        endpoint,
        from,
        to,
        available,
        ..
    } = event;
    format!("{upstream} {endpoint} {from:?}>{to:?} {available}: {reason}")
}

fn alive() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_falls_and_rises_by_checks_that_come_faster_while_it_is_open() {
    let fleet = Fleet::new(["a"], &[], |check| check);
    sleep(SECOND).await;
    assert_eq!(fleet.health("a"), State::Passing);
    fleet.world.set("a", Fails);
    sleep(4 * SECOND + SECOND / 2).await;
    assert_eq!(
        fleet.health("a"),
        State::Passing,
        "one failure is not enough"
    );
    sleep(SECOND).await;
    assert_eq!(fleet.health("a"), State::Failing);
    assert!(!fleet.state("a").is_healthy());
    fleet.world.set("a", PASSES);
    sleep(6 * SECOND).await;
    assert!(fleet.state("a").is_healthy());
    assert_eq!(fleet.times("a"), [0.0, 5.0, 6.0, 11.0, 12.0]);
    assert_eq!(
        fleet.told(),
        [
            "fleet a Unchecked>Passing true: Passed",
            "fleet a Passing>Failing false: the custom check failed",
            "fleet a Failing>Passing true: Passed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn no_traffic_before_the_first_pass_if_so_chosen() {
    let fleet = Fleet::new(["good", "bad"], &[("bad", Fails)], |check| {
        check.start(Start::FirstPass)
    });
    assert!(!fleet.state("good").is_healthy());
    sleep(SECOND / 10).await;
    assert!(fleet.state("good").is_healthy());
    assert_eq!(fleet.health("bad"), State::Failing);
}

/// When "b" was asked while "a" hangs, within eleven seconds.
async fn beside_one_that_hangs(at_once: usize) -> Vec<f64> {
    let fleet = Fleet::new(["a", "b"], &[("a", Hangs)], |check| check.at_once(at_once));
    sleep(11 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Failing);
    assert_eq!(
        fleet.times("a")[..2],
        [0.0, 4.0],
        "3 s of timeout and 1 s until the next"
    );
    fleet.times("b")
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_ends_after_its_timeout_and_delays_no_other() {
    assert_eq!(beside_one_that_hangs(2).await, [0.0, 5.0, 10.0]);
}

#[tokio::test(start_paused = true)]
async fn one_check_after_the_other_would_let_a_hung_one_delay_the_rest() {
    let keys = ["a", "b"];
    let fleet = Fleet::new([], &[("a", Hangs)], |check| check.at_once(1));
    // One after the other, so that the first check of the hung one is the first of all.
    fleet.update([endpoint(keys[0])]);
    sleep(SECOND / 10).await;
    fleet.update(keys.map(endpoint));
    sleep(10 * SECOND).await;
    assert_eq!(fleet.times("b")[0], 3.0);
}

fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("e{i:04}")).collect()
}

#[tokio::test(start_paused = true)]
async fn two_thousand_endpoints_that_hang_have_no_more_tasks_than_the_bound_and_all_fail() {
    // 100 end in a second: a round takes 20 s, and each fails twice within 40 s.
    const AT_ONCE: usize = 300;
    let keys = many(2000);
    let hang: Vec<_> = keys.iter().map(|key| (key.as_str(), Hangs)).collect();
    let fleet = Fleet::new(keys.iter().map(String::as_str), &hang, |check| {
        check.at_once(AT_ONCE)
    });
    let mut most = 0;
    for _ in 0..450 {
        sleep(SECOND / 10).await;
        most = most.max(alive());
    }
    assert_eq!(fleet.world.most.load(Ordering::Relaxed), AT_ONCE);
    assert!(most <= AT_ONCE + 1, "{most} tasks");
    for (endpoint, state) in fleet.balance.states() {
        assert_eq!(state.health(), State::Failing, "{}", endpoint.key);
    }
    let counts = fleet.world.counts();
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(
        counts.len() == 2000 && most.unwrap() - least.unwrap() <= 1,
        "{least:?} {most:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_per_endpoint_would_be_two_thousand_tasks() {
    let world = Arc::new(World::default());
    let mut naive = tokio::task::JoinSet::new();
    for key in many(2000) {
        world.set(&key, Hangs);
        naive.spawn(world.clone().ask(endpoint(&key)));
    }
    assert_eq!(alive(), 2000);
}

#[tokio::test(start_paused = true)]
async fn the_first_checks_of_a_large_set_are_spread_over_the_interval_and_stay_so() {
    let keys = many(1000);
    let fleet = Fleet::new(keys.iter().map(String::as_str), &[], |check| check);
    sleep(10 * SECOND - SECOND / 100).await;
    let mut per_tick = BTreeMap::<u64, usize>::new();
    for (at, _) in fleet.world.asked.lock().unwrap().iter() {
        let tick = (*at - fleet.start).as_millis() / 500;
        *per_tick.entry(u64::try_from(tick).unwrap()).or_default() += 1;
    }
    assert_eq!(per_tick.len(), 20, "{per_tick:?}");
    assert!(
        per_tick.values().all(|n| (85..=115).contains(n)),
        "{per_tick:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_small_set_is_checked_at_once() {
    let keys = many(256);
    let fleet = Fleet::new(keys.iter().map(String::as_str), &[], |check| check);
    sleep(SECOND / 100).await;
    assert_eq!(fleet.world.counts().len(), 256);
}

#[tokio::test(start_paused = true)]
async fn the_check_of_an_endpoint_that_is_gone_is_given_up_and_never_repeated() {
    let fleet = Fleet::new(["a", "b"], &[("a", Hangs)], |check| check);
    sleep(SECOND).await;
    assert_eq!(fleet.world.under_way.load(Ordering::Relaxed), 1);
    fleet.update([endpoint("b")]);
    sleep(SECOND / 10).await;
    assert_eq!(fleet.world.under_way.load(Ordering::Relaxed), 0);
    assert_eq!(alive(), 1);
    sleep(60 * SECOND).await;
    assert_eq!(fleet.times("a"), [0.0]);
    assert!(fleet.times("b").len() > 10);
    assert_eq!(fleet.told().len(), 1, "nothing is told of it");
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_at_the_old_address_does_not_count_and_the_new_one_is_asked_at_once() {
    let fleet = Fleet::new(["a"], &[("a", Fails)], |check| check);
    sleep(2 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Failing);
    fleet.world.set("a", Hangs);
    // The next is due at 6 s, and hangs.
    sleep(5 * SECOND).await;
    fleet.world.set("a", PASSES);
    fleet.update([at("a", "http://127.0.0.1:2")]);
    sleep(SECOND / 10).await;
    assert_eq!(
        fleet.health("a"),
        State::Failing,
        "the state belongs to the key"
    );
    sleep(SECOND).await;
    assert_eq!(fleet.health("a"), State::Passing);
    assert_eq!(fleet.times("a"), [0.0, 1.0, 6.0, 7.0, 8.0]);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_was_given_up_is_no_failure() {
    let fleet = Fleet::new(["a"], &[], |check| check.fall(1));
    sleep(SECOND).await;
    fleet.world.set("a", Hangs);
    // The next is due at 5 s, and hangs.
    sleep(5 * SECOND).await;
    fleet.world.set("a", PASSES);
    fleet.update([at("a", "http://127.0.0.1:2")]);
    sleep(SECOND).await;
    assert_eq!(fleet.told(), ["fleet a Unchecked>Passing true: Passed"]);
}

#[tokio::test(start_paused = true)]
async fn another_weight_interrupts_nothing() {
    let fleet = Fleet::new(["a"], &[("a", Hangs)], |check| check);
    sleep(SECOND).await;
    fleet.update([endpoint("a").with_weight(ha_core::endpoint::Weight::ZERO)]);
    sleep(SECOND).await;
    assert_eq!(fleet.world.under_way.load(Ordering::Relaxed), 1);
    assert_eq!(fleet.times("a"), [0.0]);
}

#[tokio::test(start_paused = true)]
async fn every_task_ends_with_the_owner() {
    let fleet = Fleet::new(["a", "b"], &[("a", Hangs)], |check| check);
    sleep(SECOND).await;
    assert_eq!(alive(), 2);
    drop(fleet.checks);
    sleep(SECOND / 10).await;
    assert_eq!(alive(), 0);
    assert_eq!(fleet.world.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_left_and_came_back_between_two_looks_is_checked() {
    let fleet = Fleet::new(["a", "b"], &[("a", Fails)], |check| {
        check.start(Start::FirstPass)
    });
    sleep(SECOND).await;
    assert_eq!(fleet.health("a"), State::Failing);
    fleet.world.set("a", PASSES);
    // Without a pause: the checks see only the last of them.
    fleet.update([endpoint("b")]);
    fleet.update([endpoint("a"), endpoint("b")]);
    sleep(6 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Passing);
    assert_eq!(
        fleet.times("b"),
        [0.0, 5.0],
        "the one that stayed is asked in its turn"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_or_a_listener_that_panics_takes_nothing_with_it() {
    let fleet = Fleet::new(["a", "b"], &[("a", Panics)], |check| {
        check.on_event(|_| panic!("as told"))
    });
    sleep(6 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Failing);
    assert_eq!(fleet.health("b"), State::Passing);
    assert_eq!(fleet.times("b"), [0.0, 5.0]);
    let told = "fleet a Unchecked>Failing false: the check panicked";
    assert!(
        fleet.told().iter().any(|line| line == told),
        "{:?}",
        fleet.told()
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_it_leaves_is_left_after_one_check_and_a_failing_one_after_two() {
    let does = [
        ("leaves", Says(Finding::Draining)),
        ("sick", Says(Finding::RegionSick)),
        ("fails", Fails),
    ];
    let fleet = Fleet::new(["leaves", "sick", "fails"], &does, |check| check);
    sleep(SECOND / 10).await;
    let healthy = |key| fleet.state(key).is_healthy();
    assert_eq!(
        ["leaves", "sick", "fails"].map(healthy),
        [false, false, true]
    );
    let mut told = fleet.told();
    told.sort();
    assert_eq!(
        told,
        [
            "fleet leaves Unchecked>Draining false: Said",
            "fleet sick Unchecked>RegionSick false: Said",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_said_to_traffic_that_it_leaves_comes_back_after_rise_and_not_after_one_pass() {
    let fleet = Fleet::new(["a"], &[], |check| check.rise(3));
    sleep(SECOND).await;
    let state = fleet.state("a");
    state.set_health(State::Draining, false);
    sleep(5 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Draining, "one pass, at 5 s");
    sleep(2 * SECOND).await;
    assert_eq!(fleet.health("a"), State::Passing);
    assert_eq!(fleet.times("a"), [0.0, 5.0, 6.0, 7.0]);
    assert_eq!(
        fleet.told()[1..],
        [
            "fleet a Passing>Draining false: SaidToTraffic",
            "fleet a Draining>Passing true: Passed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn bad_settings_are_refused_by_name_and_value() {
    fn message<P: Probe>(check: Check<P>) -> String {
        Check::from(check).validate().unwrap_err().to_string()
    }
    let get = || Http::get("/readyz");
    let secs = Duration::from_secs;
    for (message, expected) in [
        (
            message(get().interval(secs(1)).timeout(secs(2))),
            "health.interval is 1s: must not be shorter than health.timeout",
        ),
        (
            message(get().timeout(Duration::ZERO)),
            "health.timeout is 0ns: ",
        ),
        (message(get().at_once(0)), "health.at_once is 0: "),
        (
            message(get().jitter_ratio(f64::NAN)),
            "health.jitter_ratio is NaN: ",
        ),
        (message(get().fall(0)), "health.fall is 0: "),
        (message(get().rise(0)), "health.rise is 0: "),
        (
            message(get().transition_interval(secs(6))),
            "health.transition_interval is 6s: ",
        ),
        (message(Http::get("readyz")), "health.path is \"readyz\": "),
        (message(Http::get("*")), "health.path is \"*\": "),
        (message(Http::get("/a b")), "health.path is \"/a b\": "),
        (message(get().host("")), "health.host is \"\": "),
        (message(get().host("a\nb")), "health.host is \"a\\nb\": "),
        (message(get().statuses([])), "health.statuses is empty: "),
        (
            message(get().statuses([200, 99])),
            "health.statuses is 99: ",
        ),
        (
            message(get().statuses(200..=600)),
            "health.statuses is 600: ",
        ),
        (message(get().body_limit(0)), "health.body_limit is 0: "),
        (
            message(get().body_contains("")),
            "health.body_contains is \"\": ",
        ),
        (
            message(get().body_contains("ready").body_limit(4)),
            "health.body_contains is \"ready\": must not be longer",
        ),
        (
            message(Http::head("/readyz").body_contains("ready")),
            "health.body_contains is \"ready\": cannot be",
        ),
        (
            message(Http::request(::http::Method::CONNECT, "/readyz")),
            "health.method is CONNECT: ",
        ),
        (message(Tcp::connect().send("")), "health.send is empty: "),
        (
            message(Tcp::connect().expect("")),
            "health.expect is empty: ",
        ),
        (
            message(Tcp::connect().expect(vec![0; 65_537])),
            "health.expect is 65537 bytes: ",
        ),
    ] {
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_timeout_that_nobody_chose_fits_the_interval() {
    let get = || Http::get("/readyz");
    assert_eq!(get().settings.timeout(), 3 * SECOND);
    assert_eq!(get().interval(SECOND).settings.timeout(), SECOND);
    Check::from(get().interval(Duration::from_millis(1)))
        .validate()
        .unwrap();
}
