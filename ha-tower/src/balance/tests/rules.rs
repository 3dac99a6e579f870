//! What decides beside the policy: keys, places, ramps, ejections, and an endpoint's own word.

use std::sync::Mutex;
use std::task::Context;

use ha_core::hash::hash_key;
use ha_core::subset::Subset;
use ha_core::{outlier, slow_start, spread};
use proptest::prelude::*;

use super::*;

pub(super) fn keyed(user: &str) -> Request<()> {
    Request::builder().header("x-user", user).body(()).unwrap()
}

fn hashed() -> [Policy; 3] {
    let key = || HashKey::header("x-user");
    [
        RingHash::new(key()).into(),
        Maglev::new(key()).into(),
        Rendezvous::new(key()).into(),
    ]
}

pub(super) fn every_policy() -> Vec<Policy> {
    let mut all = vec![
        Policy::from(RoundRobin),
        Random.into(),
        P2c::peak_ewma().into(),
        P2c::least_request().into(),
    ];
    all.extend(hashed());
    let key = || HashKey::header("x-user");
    all.extend([
        RingHash::new(key()).unbounded().into(),
        Maglev::new(key()).unbounded().into(),
        Rendezvous::new(key()).unbounded().into(),
    ]);
    all
}

pub(super) fn fakes(n: usize) -> Vec<Fake> {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    names[..n].iter().map(|name| Fake::new(name, 1)).collect()
}

async fn who(balance: &Balance<Fake, Http>, request: Request<()>) -> String {
    name_of(balance.clone().oneshot(request).await.unwrap()).await
}

pub(super) fn state(balance: &Balance<Fake, Http>, key: &str) -> Arc<State> {
    let states = balance.states();
    let found = states.into_iter().find(|(e, _)| e.key.as_str() == key);
    found.unwrap().1
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_is_refused_by_name_and_nothing_changes() {
    let fake = Fake::new("a", 1);
    let twice = [fake.with_endpoint(), fake.with_endpoint()];
    let error = Balance::builder(twice).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("endpoint.key", "a"));

    let balance = balance(&fakes(2), RoundRobin);
    let error = balance
        .update([endpoint("c"), endpoint("c")], |_| fake.clone())
        .unwrap_err();
    assert_eq!((error.field(), error.value()), ("endpoint.key", "c"));
    assert_eq!(balance.len(), 2);
    assert_eq!(tally(&balance, 10, GAP).await["b"], 5);
}

#[test]
fn senseless_policies_are_refused_by_field_and_value() {
    let build = |policy: Policy| {
        let balance = Balance::<Fake>::builder([]).policy(policy).build();
        let error = balance.unwrap_err();
        (error.field(), error.value().to_owned())
    };
    let key = || HashKey::header("x-user");
    for (policy, field, value) in [
        (
            RingHash::new(HashKey::header("no name")).into(),
            "hash_key.header",
            "\"no name\"",
        ),
        (
            Maglev::new(HashKey::cookie("")).into(),
            "hash_key.cookie",
            "\"\"",
        ),
        (
            Rendezvous::new(HashKey::query("a=b")).into(),
            "hash_key.query",
            "\"a=b\"",
        ),
        (
            Maglev::new(key()).bounded(f64::NAN).into(),
            "bound.factor",
            "NaN",
        ),
        (
            RingHash::new(key()).bounded(0.9).into(),
            "bound.factor",
            "0.9",
        ),
    ] {
        assert_eq!(build(policy), (field, value.to_owned()));
    }
}

#[test]
fn a_key_is_found_where_it_is_said_to_be_and_nowhere_else() {
    let mut request = Request::builder()
        .uri("http://host/shop/cart?user=1&tenant=acme&tenant=other")
        .header("x-user", "ada")
        .header("cookie", "a=1; tenant=blue")
        .header("cookie", "session=s3")
        .body(())
        .unwrap();
    let peer = crate::proxy::Peer("[::ffff:10.0.0.7]:4000".parse().unwrap());
    request.extensions_mut().insert(peer);
    for (key, found) in [
        (HashKey::header("X-User"), Some(&b"ada"[..])),
        (HashKey::header("x-other"), None),
        (HashKey::cookie("tenant"), Some(b"blue")),
        (HashKey::cookie("session"), Some(b"s3")),
        (HashKey::cookie("sess"), None),
        (HashKey::query("tenant"), Some(b"acme")),
        (HashKey::query("ten"), None),
        (HashKey::path(), Some(b"/shop/cart")),
        (HashKey::source_address(), Some(&[10, 0, 0, 7])),
        (HashKey::from_protocol(), None),
        (
            HashKey::with(|head| Some(hash_key(head.method.as_str().as_bytes()))),
            Some(b"GET"),
        ),
    ] {
        assert_eq!(key.hash(&request), found.map(hash_key), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_its_endpoint_and_only_the_keys_of_a_lost_one_move() {
    for policy in hashed() {
        let balance = balance(&fakes(5), policy.clone());
        let users: Vec<_> = (0..50).map(|i| format!("user{i}")).collect();
        let mut before = HashMap::new();
        for user in &users {
            let first = who(&balance, keyed(user)).await;
            assert_eq!(who(&balance, keyed(user)).await, first, "{policy:?}");
            before.insert(user, first);
        }
        set_health(&balance, "b", false);
        let mut heirs = std::collections::HashSet::new();
        for user in &users {
            let now = who(&balance, keyed(user)).await;
            if before[user] == "b" {
                heirs.insert(now);
            } else {
                assert_eq!(now, before[user], "{policy:?}");
            }
        }
        assert!(heirs.len() > 1, "not all to one neighbour: {policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_go_everywhere() {
    for policy in hashed() {
        let tally = tally(&balance(&fakes(3), policy.clone()), 300, GAP).await;
        assert!(tally.values().all(|n| *n > 50), "{policy:?}: {tally:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_hot_key_never_has_more_than_its_bound_in_flight_and_unbounded_it_has_all() {
    let most = |policy: Policy| {
        let balance = balance(&fakes(4), policy);
        let calls: Vec<_> = (0..40)
            .map(|_| balance.clone().call(keyed("hot")))
            .collect();
        let states = balance.states();
        let most = states.iter().map(|(_, s)| s.load.in_flight()).max();
        drop(calls);
        assert_eq!(balance.in_flight(), 0);
        most.unwrap()
    };
    for policy in hashed() {
        // ceil(1.25 · 40 / 4)
        assert!(most(policy.clone()) <= 13, "{policy:?}");
    }
    let key = || HashKey::header("x-user");
    assert_eq!(most(RingHash::new(key()).unbounded().into()), 40);
}

#[test]
fn the_bound_holds_while_threads_take_and_release_places() {
    const THREADS: u32 = 4;
    const HELD: u32 = 8;
    for policy in hashed() {
        let balance = balance(&fakes(4), policy.clone());
        let states = balance.states();
        // The largest total there can be.
        let cap = (1.25 * f64::from(THREADS * HELD) / 4.0).ceil() as u32;
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut held = std::collections::VecDeque::new();
                    for _ in 0..2_000 {
                        held.push_back(balance.clone().call(keyed("hot")));
                        for (_, state) in &states {
                            assert!(state.load.in_flight() <= cap, "{policy:?}");
                        }
                        if held.len() == HELD as usize {
                            held.pop_front();
                        }
                    }
                });
            }
        });
        assert_eq!(balance.in_flight(), 0);
    }
}

fn placed(key: &str, priority: u8, region: &str) -> Endpoint {
    let mut endpoint = endpoint(key);
    endpoint.priority = priority;
    endpoint.locality.region = region.into();
    endpoint
}

fn spread_over(places: &[(&'static str, u8, &str)]) -> Balance<Fake, Http> {
    let mut config = spread::Config::default();
    config.local.region = "here".into();
    let each = places
        .iter()
        .map(|(name, priority, region)| (placed(name, *priority, region), Fake::new(name, 1)));
    Balance::builder(each)
        .policy(Random)
        .slow_start(None)
        .spread(config)
        .protocol(Http)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_second_priority_helps_only_as_far_as_the_first_has_lost_capacity() {
    let balance = spread_over(&[("a", 0, ""), ("b", 0, ""), ("c", 1, ""), ("d", 1, "")]);
    let all_well = tally(&balance, 200, GAP).await;
    assert!(!all_well.contains_key("c") && !all_well.contains_key("d"));
    set_health(&balance, "a", false);
    let half = tally(&balance, 2_000, GAP).await;
    // 1.4 · 1/2 stays.
    assert!((1_300..1_500).contains(&half["b"]), "{half:?}");
    set_health(&balance, "b", false);
    let none = tally(&balance, 100, GAP).await;
    assert_eq!(none["c"] + none["d"], 100);
}

#[tokio::test(start_paused = true)]
async fn the_own_region_takes_everything_until_it_says_that_it_is_sick_as_a_whole() {
    let balance = spread_over(&[("a", 0, "here"), ("b", 0, "here"), ("c", 0, "there")]);
    assert!(!tally(&balance, 100, GAP).await.contains_key("c"));
    state(&balance, "a").set_health(health::State::RegionSick, false);
    let half = tally(&balance, 100, GAP).await;
    assert!(half["b"] > 40, "one alone does not speak for all: {half:?}");
    state(&balance, "b").set_health(health::State::RegionSick, false);
    assert_eq!(tally(&balance, 100, GAP).await["c"], 100);
    // With nobody else to answer, their word decides nothing.
    set_health(&balance, "c", false);
    let sick = tally(&balance, 100, GAP).await;
    assert_eq!(sick["a"] + sick["b"], 100);
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_gets_its_share_little_by_little_and_without_slow_start_at_once() {
    for (ramp, expected) in [
        (Some(slow_start::Config::default()), 5..40),
        (None, 120..210),
    ] {
        for policy in [Policy::from(RoundRobin), Random.into()] {
            let balance = Balance::builder(fakes(2).iter().map(Fake::with_endpoint))
                .policy(policy.clone())
                .slow_start(ramp.clone())
                .protocol(Http)
                .build()
                .unwrap();
            let three = ["a", "b", "c"].map(endpoint);
            balance.update(three, |_| Fake::new("c", 1)).unwrap();
            let at_first = tally(&balance, 500, GAP).await;
            assert!(
                expected.contains(&at_first["c"]),
                "{policy:?}: {at_first:?}"
            );
            advance(Duration::from_secs(30)).await;
            let later = tally(&balance, 500, GAP).await;
            assert!(later["c"] > 120, "{policy:?}: {later:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_back_ramps_once() {
    let balance = Balance::builder(fakes(2).iter().map(Fake::with_endpoint))
        .policy(RoundRobin)
        .protocol(Http)
        .build()
        .unwrap();
    set_health(&balance, "b", false);
    tally(&balance, 10, GAP).await;
    set_health(&balance, "b", true);
    let at_first = tally(&balance, 100, GAP).await;
    assert!(at_first.get("b").is_none_or(|n| *n < 30), "{at_first:?}");
    advance(Duration::from_secs(5)).await;
    assert_eq!(tally(&balance, 100, GAP).await["b"], 50);
}

pub(super) fn ejecting(
    n: usize,
    events: &Arc<Mutex<Vec<Event>>>,
) -> (Vec<Fake>, Balance<Fake, Http>) {
    let fakes = fakes(n);
    let events = events.clone();
    let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
        .policy(RoundRobin)
        .breaker(never_trips())
        .slow_start(None)
        .outlier(outlier::Config::default())
        .on_event(move |event| events.lock().unwrap().push(event.clone()))
        .protocol(Http)
        .build()
        .unwrap();
    (fakes, balance)
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_and_time_brings_back() {
    let events = Arc::default();
    let (fakes, balance) = ejecting(5, &events);
    tokio::spawn(balance.drive());
    fakes[0].broken.store(true, Ordering::Relaxed);
    let tally_broken = tally(&balance, 100, GAP).await;
    assert!((5..=6).contains(&tally_broken["error"]), "{tally_broken:?}");
    assert!(state(&balance, "a").ejected_until().is_some());
    fakes[0].broken.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(31)).await;
    assert_eq!(tally(&balance, 100, GAP).await["a"], 20);
    let events = events.lock().unwrap();
    assert!(matches!(events[0], Event::Ejected { .. }), "{events:?}");
    assert!(matches!(events[1], Event::Returned { .. }), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn an_active_check_that_passes_again_ends_the_ejection() {
    let events = Arc::default();
    let (fakes, balance) = ejecting(5, &events);
    tokio::spawn(balance.drive());
    fakes[0].broken.store(true, Ordering::Relaxed);
    tally(&balance, 100, GAP).await;
    fakes[0].broken.store(false, Ordering::Relaxed);
    set_health(&balance, "a", true);
    assert!(state(&balance, "a").is_ejected(), "it passed all the time");
    set_health(&balance, "a", false);
    set_health(&balance, "a", true);
    assert!(!state(&balance, "a").is_ejected());
    assert_eq!(tally(&balance, 100, GAP).await["a"], 20);
}

#[tokio::test(start_paused = true)]
async fn the_ejector_wakes_once_for_each_change_and_ends_with_the_balancer() {
    let (fakes, balance) = ejecting(5, &Arc::default());
    let polls = Arc::new(AtomicU64::new(0));
    let mut drive = Box::pin(balance.drive());
    let counted = polls.clone();
    let driver = tokio::spawn(std::future::poll_fn(move |cx: &mut Context<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        drive.as_mut().poll(cx)
    }));
    fakes[0].broken.store(true, Ordering::Relaxed);
    tally(&balance, 50, GAP).await;
    sleep(Duration::from_secs(60)).await;
    // Six intervals, the run of failures, the return, the set.
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls <= 10, "{polls} polls in a minute with an ejection");
    drop(balance);
    let ended = tokio::time::timeout(Duration::from_secs(1), driver).await;
    ended.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_it_drains_is_left_at_once_and_comes_back_by_time_or_check() {
    let said = Arc::new(AtomicBool::new(true));
    let app = |name: &'static str, says: bool| {
        let said = said.clone();
        tower::service_fn(move |_: Request<()>| {
            let mut response = Response::new(Full::<bytes::Bytes>::from(name));
            if says && said.load(Ordering::Relaxed) {
                let value = http::HeaderValue::from_static("true");
                response
                    .headers_mut()
                    .insert(crate::health::DRAINING, value);
            }
            async move { Ok::<_, BoxError>(response) }
        })
    };
    let balance = Balance::builder([
        (endpoint("stays"), app("stays", false)),
        (endpoint("leaves"), app("leaves", true)),
    ])
    .policy(RoundRobin)
    .slow_start(None)
    .protocol(Http)
    .build()
    .unwrap();
    let picks = async |n: usize| {
        let mut leaves = 0;
        for _ in 0..n {
            let response = balance.clone().oneshot(Request::new(())).await.unwrap();
            leaves += usize::from(name_of(response).await == "leaves");
        }
        leaves
    };
    assert_eq!(picks(20).await, 1, "the answer that said so");
    said.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(29)).await;
    assert_eq!(picks(20).await, 0);
    advance(Duration::from_secs(1)).await;
    assert_eq!(picks(20).await, 10, "no check tells, so time does");

    // Checked, it waits for the check.
    let (_, state) = &balance.states()[1];
    state.set_health(health::State::Passing, true);
    said.store(true, Ordering::Relaxed);
    assert_eq!(picks(20).await, 1);
    said.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(300)).await;
    assert_eq!(picks(20).await, 0);
    state.set_health(health::State::Passing, true);
    assert_eq!(picks(20).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_large_fleet_uses_its_subset_and_one_change_moves_at_most_one() {
    let fleet: Vec<_> = (0..40).map(|i| endpoint(&format!("app{i}"))).collect();
    let keys = |balance: &Balance<Fake>| -> std::collections::HashSet<_> {
        let states = balance.states();
        states.into_iter().map(|(e, _)| e.key).collect()
    };
    let pairs = fleet.iter().map(|e| (e.clone(), Fake::new("any", 1)));
    let balance = Balance::builder(pairs)
        .subset(Subset::new(b"edge-1", 8).unwrap())
        .build()
        .unwrap();
    let before = keys(&balance);
    assert_eq!(before.len(), 8);
    let fewer = fleet[1..].to_vec();
    balance.update(fewer, |_| Fake::new("any", 1)).unwrap();
    assert!(before.difference(&keys(&balance)).count() <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_out_is_never_picked_while_another_is_in_and_tried_ones_are_avoided(
        out in prop::collection::vec(any::<bool>(), 2..8),
        tried_ones in prop::collection::vec(any::<bool>(), 8),
        users in prop::collection::vec("[a-z]{1,4}", 20),
    ) {
        let fakes = fakes(out.len());
        for policy in every_policy() {
            let mut balance = balance(&fakes, policy.clone());
            for (fake, _) in fakes.iter().zip(&out).filter(|(_, out)| **out) {
                set_health(&balance, fake.name, false);
            }
            let is_in: Vec<_> = fakes.iter().zip(&out).filter(|(_, out)| !**out).map(|(f, _)| f.name).collect();
            let was_tried = |name: &str| fakes.iter().position(|f| f.name == name).is_some_and(|i| tried_ones[i]);
            let fresh_left = is_in.iter().any(|name| !was_tried(name));
            for user in &users {
                let tried = Tried::new();
                for fake in fakes.iter().filter(|fake| was_tried(fake.name)) {
                    tried.record(fake.name.into());
                }
                let recorded = tried.len();
                let mut request = keyed(user);
                request.extensions_mut().insert(tried.clone());
                drop(balance.call(request));
                let picked = tried.snapshot().split_off(recorded);
                prop_assert_eq!(picked.len(), usize::from(!is_in.is_empty()), "{:?}", policy);
                for key in picked {
                    prop_assert!(is_in.contains(&key.as_str()), "{:?}", policy);
                    prop_assert!(!fresh_left || !was_tried(key.as_str()), "{:?}", policy);
                }
            }
            prop_assert_eq!(balance.in_flight(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_still_picks_in_a_set_that_was_replaced_does_not_take_the_news_from_the_new_one() {
    let fakes = [Fake::new("a", 1), Fake::new("b", 1)];
    let balance = Balance::builder([(placed("a", 0, ""), fakes[0].clone())])
        .available_at_first(false)
        .protocol(Http)
        .build()
        .unwrap();
    let old = balance.shared.members.load_full();
    let two = [placed("a", 0, ""), placed("b", 1, "")];
    balance.update(two, |_| fakes[1].clone()).unwrap();
    set_health(&balance, "a", true);

    // Another thread, which had read the old set and comes first now.
    let ask = fleet::Ask {
        tried: None,
        hash: None,
        random: 0,
    };
    let picked = balance
        .shared
        .pick(&old, &ask, &crate::clock::Moment::default(), &mut None);
    assert!(picked.is_some());

    assert_eq!(tally(&balance, 10, GAP).await["a"], 10);
}
