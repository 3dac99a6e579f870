//! Shares by weight under every policy that has them, and the places that endpoints stand in.

use ha_core::hash::RingConfig;
use ha_core::spread;
use proptest::prelude::*;

use super::rules::{fakes, keyed, state};
use super::*;

fn evenly_hashed() -> [Policy; 3] {
    let key = || HashKey::header("x-user");
    let mut ring = RingConfig::default();
    ring.points_per_weight = 2_500;
    [
        RingHash::new(key()).ring(ring).unbounded().into(),
        Maglev::new(key()).unbounded().into(),
        Rendezvous::new(key()).unbounded().into(),
    ]
}

/// The share that each endpoint has of the picks.
fn shares(policy: &Policy, weights: &[u32], picks: usize) -> Vec<f64> {
    let fakes = fakes(weights.len());
    let mut balance = balance(&fakes, policy.clone());
    let weighed = fakes.iter().zip(weights);
    let weighed =
        weighed.map(|(fake, w)| endpoint(fake.name).with_weight(Weight::new(*w).unwrap()));
    balance.update(weighed, |_| unreachable!()).unwrap();
    let mut tally = vec![0_u32; weights.len()];
    for n in 0..picks {
        let tried = Tried::new();
        let mut request = keyed(&format!("user{n}"));
        request.extensions_mut().insert(tried.clone());
        drop(balance.call(request));
        let picked = &tried.snapshot()[0];
        let at = fakes.iter().position(|fake| fake.name == picked.as_str());
        tally[at.unwrap()] += 1;
    }
    tally.iter().map(|n| f64::from(*n) / picks as f64).collect()
}

fn off_by(shares: &[f64], weights: &[u32]) -> f64 {
    let sum = f64::from(weights.iter().sum::<u32>());
    let each = shares.iter().zip(weights);
    each.map(|(share, w)| (share - f64::from(*w) / sum).abs())
        .fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn shares_follow_the_weights_within_two_percent(
        weights in prop::collection::vec(0_u32..10, 2..6)
            .prop_filter("somebody is picked", |weights| weights.iter().any(|w| *w > 0)),
        seed: u64,
    ) {
        fastrand::seed(seed);
        let blind = [Policy::from(RoundRobin), Random.into()];
        for policy in blind.into_iter().chain([evenly_hashed()[1].clone(), evenly_hashed()[2].clone()]) {
            let shares = shares(&policy, &weights, 15_000);
            prop_assert!(off_by(&shares, &weights) < 0.02, "{:?}: {:?}", policy, shares);
        }
    }

    #[test]
    fn a_ring_keeps_the_weights_within_its_documented_deviation(
        weights in prop::collection::vec(1_u32..10, 2..6),
    ) {
        // Four deviations of one in √2,500, and what 15,000 keys add.
        let shares = shares(&evenly_hashed()[0], &weights, 15_000);
        prop_assert!(off_by(&shares, &weights) < 0.06, "{:?}", shares);
    }
}

#[test]
fn a_policy_that_is_blind_for_weights_fails_the_same_check() {
    let shares = shares(&Random.into(), &[1, 1], 15_000);
    assert!(off_by(&shares, &[3, 1]) > 0.2);
}

type Place = (&'static str, u8, &'static str, &'static str);

/// For a caller in zone `own` of region `here`.
fn placed(places: &[Place]) -> Balance<Fake, Http> {
    let mut config = spread::Config::default();
    config.local.region = "here".into();
    config.local.zone = "own".into();
    config.next_regions = vec!["near".into()];
    let each = places.iter().map(|(name, priority, region, zone)| {
        let mut endpoint = endpoint(name);
        endpoint.priority = *priority;
        endpoint.locality.region = (*region).into();
        endpoint.locality.zone = (*zone).into();
        (endpoint, Fake::new(name, 1))
    });
    Balance::builder(each)
        .policy(Random)
        .breaker(never_trips())
        .slow_start(None)
        .spread(config)
        .protocol(Http)
        .build()
        .unwrap()
}

async fn share_of(balance: &Balance<Fake, Http>, names: &[&str]) -> f64 {
    let tally = tally(balance, 2_000, GAP).await;
    let of = |name: &&str| tally.get(*name).copied().unwrap_or_default();
    names.iter().map(of).sum::<usize>() as f64 / 2_000.0
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_goes_first_then_the_own_region_then_the_next_one() {
    let balance = placed(&[
        ("a", 0, "here", "own"),
        ("b", 0, "here", "own"),
        ("c", 0, "here", "other"),
        ("d", 0, "near", "own"),
        ("e", 0, "far", "own"),
    ]);
    assert_eq!(share_of(&balance, &["a", "b"]).await, 1.0);
    set_health(&balance, "a", false);
    // Two of the three here are well, which is 1.4 · 2/3 of the region; and half of the zone, 1.4 · 1/2 of that.
    let region = 1.4 * 2.0 / 3.0;
    for (names, expected) in [
        (&["b"][..], region * 0.7),
        (&["c"], region * 0.3),
        (&["d"], 1.0 - region),
        (&["e"], 0.0),
    ] {
        let share = share_of(&balance, names).await;
        assert!(
            (share - expected).abs() < 0.06,
            "{names:?}: {share} is not {expected}"
        );
    }
    for name in ["b", "c"] {
        set_health(&balance, name, false);
    }
    assert_eq!(share_of(&balance, &["d"]).await, 1.0);
    set_health(&balance, "d", false);
    assert_eq!(share_of(&balance, &["e"]).await, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_priority_panics_only_when_all_together_have_too_little() {
    let eject = |balance: &Balance<Fake, Http>, names: &[&str]| {
        for name in names {
            state(balance, name).set_ejected(true);
        }
    };
    let balance = placed(&[
        ("a", 0, "", ""),
        ("b", 0, "", ""),
        ("c", 0, "", ""),
        ("d", 1, "", ""),
        ("e", 1, "", ""),
    ]);
    eject(&balance, &["a", "b"]);
    // 1.4 · 1/3 and 1.4 of the next: enough, and the ejected stay out.
    assert_eq!(share_of(&balance, &["a", "b"]).await, 0.0);
    assert!(!balance.is_panicking());
    eject(&balance, &["d", "e"]);
    assert!(balance.is_panicking());
    let back = share_of(&balance, &["a", "b"]).await;
    assert!(back > 0.5, "{back}");
}

#[tokio::test(start_paused = true)]
async fn panic_in_one_priority_brings_back_nobody_in_another() {
    let balance = placed(&[
        ("a", 0, "", ""),
        ("b", 0, "", ""),
        ("c", 0, "", ""),
        ("d", 1, "", ""),
        ("e", 1, "", ""),
        ("f", 1, "", ""),
    ]);
    // A third of the first is left: it panics. Of those of the second that pass their checks half is left: it does not.
    for name in ["a", "b", "f"] {
        state(&balance, name).set_ejected(true);
    }
    set_health(&balance, "d", false);
    assert!(balance.is_panicking());
    let tally = tally(&balance, 2_000, GAP).await;
    assert!(tally["a"] > 200 && tally["b"] > 200, "{tally:?}");
    assert!(tally["e"] > 600, "{tally:?}");
    for out in ["d", "f"] {
        assert!(!tally.contains_key(out), "{tally:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn groups_that_are_gone_are_forgotten_with_their_last_request() {
    let key = HashKey::header("x-user");
    let balance = Balance::builder([Fake::new("a", 1).with_endpoint()])
        .policy(RingHash::new(key))
        .protocol(Http)
        .build()
        .unwrap();
    let lanes = || super::super::changes::lock(&balance.shared.control.lanes).len();
    let move_to = |priority: u8| {
        let mut moved = endpoint("a");
        moved.priority = priority;
        balance.update([moved], |_| unreachable!()).unwrap();
    };
    let held = balance.clone().call(keyed("ada"));
    for priority in 1..=50 {
        move_to(priority);
        // This one, the one before, and the one that still has a request.
        assert!(lanes() <= 3);
    }
    drop(held);
    move_to(50);
    assert!(lanes() <= 2);
    assert_eq!(balance.in_flight(), 0);
}

#[test]
fn a_pick_beside_a_thread_that_looks_at_a_change_does_not_miss_that_panic_has_begun() {
    const ROUNDS: u64 = 3_000;
    let balance = placed(&[("a", 0, "", ""), ("b", 0, "", ""), ("c", 0, "", "")]);
    let states = balance.states();
    let picks = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let tried = Tried::new();
                    let mut request = Request::new(());
                    request.extensions_mut().insert(tried.clone());
                    drop(balance.clone().call(request));
                    let nobody = u64::from(tried.is_empty());
                    refused.fetch_add(nobody, Ordering::Relaxed);
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..ROUNDS {
            for (_, state) in &states {
                state.set_ejected(round % 2 == 0);
            }
            let seen = picks.load(Ordering::Relaxed);
            while picks.load(Ordering::Relaxed) < seen + 6 {
                std::hint::spin_loop();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(refused.load(Ordering::Relaxed), 0);
}
