use std::collections::{HashMap, HashSet};

use super::bed::*;
use super::*;
use crate::endpoint::{EndpointKey, Weight};
use proptest::prelude::*;

/// The largest part of the keys of one endpoint that all go to the same other one when it is lost.
fn largest_heir<T: Eq + std::hash::Hash>(heirs: impl Iterator<Item = T>) -> f64 {
    let mut counts: HashMap<T, u32> = HashMap::new();
    heirs.for_each(|heir| *counts.entry(heir).or_default() += 1);
    let most = counts.values().copied().max().unwrap_or(0);
    f64::from(most) / f64::from(counts.values().sum::<u32>())
}

#[test]
fn the_keys_of_a_lost_endpoint_are_spread_over_the_others() {
    for kind in ALL {
        let table = table(kind, &equal(20));
        let heirs = keys(40_000).filter_map(|hash| {
            let mut order = table.candidates(hash);
            (order.next() == Some(7)).then(|| order.next())
        });
        let largest = largest_heir(heirs);
        assert!(
            largest < 0.09,
            "{kind:?}: {largest}, an even share is 0.053"
        );
    }
}

#[test]
fn the_negative_control_of_walking_on_to_the_neighbour_hands_them_all_to_one() {
    let mut points: Vec<(u64, usize)> = (0..20)
        .map(|i| (mix(hash_key(format!("app{i}").as_bytes())), i))
        .collect();
    points.sort_unstable();
    let order = |hash: u64| {
        let at = points.partition_point(|(place, _)| *place < mix(hash));
        let owner = |i: usize| points[i % 20].1;
        (owner(at), owner(at + 1))
    };
    let heirs = keys(40_000).filter_map(|hash| {
        let (first, second) = order(hash);
        (first == 7).then_some(second)
    });
    assert_eq!(largest_heir(heirs), 1.0);
}

#[test]
fn one_point_per_endpoint_does_not_make_a_neighbour_of_the_next_draw() {
    let names: Vec<EndpointKey> = (0..20).map(|i| format!("app{i}").into()).collect();
    let config = RingConfig {
        points_per_weight: 1,
        ..RingConfig::default()
    };
    let ring = Ring::new(&config, names.iter().map(|k| (k, Weight::ONE))).unwrap();
    let first = ring.pick(0);
    let heirs = keys(40_000)
        .map(|hash| ring.candidates(hash))
        .filter_map(|mut order| (order.next() == first).then(|| order.next()));
    let largest = largest_heir(heirs);
    assert!(largest < 0.5, "{largest}");
}

#[test]
fn the_candidates_of_a_rendezvous_are_its_top() {
    let set: Set = (0..30).map(|name| (name, 1 + name % 4)).collect();
    let Table::Rendezvous(rendezvous) = table(Kind::Rendezvous, &set) else {
        unreachable!("as asked for");
    };
    for hash in keys(200) {
        let first: Vec<usize> = rendezvous.candidates(hash).take(10).collect();
        assert_eq!(rendezvous.top(hash, 10), first);
        assert_eq!(rendezvous.top(hash, 100).len(), 30);
        assert!(rendezvous.top(hash, 0).is_empty());
    }
}

#[test]
fn the_last_endpoint_that_works_is_found_among_thousands() {
    for kind in ALL {
        let table = table(kind, &equal(3_000));
        for hash in keys(20) {
            assert_eq!(table.candidates(hash).find(|i| *i == 1_234), Some(1_234));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn candidates_are_everyone_once_with_the_pick_first(
        weights in prop::collection::vec(0u32..=3, 0..80), hash in any::<u64>(),
    ) {
        let set: Set = (0..).zip(weights).collect();
        let live: HashSet<usize> = (0..set.len()).filter(|i| set[*i].1 > 0).collect();
        for kind in ALL {
            let table = table(kind, &set);
            let candidates = table.candidates(hash);
            prop_assert_eq!(candidates.len(), live.len());
            let order: Vec<usize> = candidates.collect();
            prop_assert_eq!(order.len(), live.len());
            prop_assert_eq!(order.first().copied(), table.pick(hash));
            prop_assert_eq!(&order.into_iter().collect::<HashSet<_>>(), &live);
        }
    }
}
