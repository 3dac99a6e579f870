use super::bed::*;
use super::*;
use proptest::prelude::*;

const KEYS: u32 = 20_000;
const FEWER_KEYS: u32 = 4_000;

fn moved(before: &[u32], after: &[u32]) -> f64 {
    let count = before.iter().zip(after).filter(|(b, a)| b != a).count();
    count as f64 / before.len() as f64
}

/// Keys that moved although neither their old nor their new endpoint is `changed`.
fn needlessly_moved(before: &[u32], after: &[u32], changed: u32) -> f64 {
    let needless = |(b, a): &(&u32, &u32)| b != a && **b != changed && **a != changed;
    before.iter().zip(after).filter(needless).count() as f64 / before.len() as f64
}

fn without(set: &Set, name: u32) -> Set {
    set.iter().copied().filter(|(n, _)| *n != name).collect()
}

fn reweighted(set: &Set, name: u32, weight: u32) -> Set {
    let change = |(n, w)| (n, if n == name { weight } else { w });
    set.iter().copied().map(change).collect()
}

/// The ratios that the docs name. Maglev fills its table anew, which shifts some turns.
fn needless_bound(kind: Kind, maglev: f64) -> f64 {
    if kind == Kind::Maglev { maglev } else { 0.0 }
}

const MAGLEV_ON_CHANGE: f64 = 0.01;
const MAGLEV_ON_WEIGHT: f64 = 0.03;

#[test]
fn one_endpoint_less_moves_one_share_of_the_keys() {
    for n in [2, 10, 50, 200] {
        for kind in ALL {
            let before = owners(kind, &equal(n), KEYS);
            let after = owners(kind, &without(&equal(n), n / 2), KEYS);
            let share = before.iter().filter(|o| **o == n / 2).count() as f64 / f64::from(KEYS);
            let moved = moved(&before, &after);
            assert!(
                moved <= share + needless_bound(kind, MAGLEV_ON_CHANGE),
                "{kind:?} {n}: {moved}"
            );
            assert!(moved >= share, "those of the leaver cannot stay");
        }
    }
}

#[test]
fn the_negative_control_modulo_moves_nearly_all_keys() {
    let owners = |n: u64| -> Vec<u32> { keys(KEYS).map(|hash| (hash % n) as u32).collect() };
    assert!(moved(&owners(50), &owners(49)) > 0.95);
}

#[test]
fn a_ring_below_its_minimum_moves_up_to_twice_the_share_as_documented() {
    let owners = |n: u32| -> Vec<u32> {
        let config = RingConfig {
            min_points: 4_096,
            ..RingConfig::default()
        };
        let names: Vec<crate::endpoint::EndpointKey> =
            (0..n).map(|i| format!("app{i}").into()).collect();
        let endpoints = names.iter().map(|k| (k, crate::endpoint::Weight::ONE));
        let ring = Ring::new(&config, endpoints).unwrap();
        keys(KEYS)
            .map(|hash| ring.pick(hash).unwrap() as u32)
            .collect()
    };
    let moved = moved(&owners(8), &owners(9));
    assert!((1.0 / 9.0..2.0 / 9.0).contains(&moved), "{moved}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn comers_and_goers_move_only_their_own_keys(
        weights in prop::collection::vec(1u32..=5, 2..60), goer in any::<prop::sample::Index>(),
    ) {
        let set: Set = (0..).zip(weights).collect();
        let goer = goer.index(set.len()) as u32;
        for kind in ALL {
            // Read the other way round, the goer is a comer.
            let (before, after) = (owners(kind, &set, FEWER_KEYS), owners(kind, &without(&set, goer), FEWER_KEYS));
            let needless = needlessly_moved(&before, &after, goer);
            prop_assert!(needless <= needless_bound(kind, MAGLEV_ON_CHANGE), "{kind:?}: {needless}");
        }
    }

    #[test]
    fn a_new_weight_moves_keys_only_to_or_from_its_endpoint(
        weights in prop::collection::vec(1u32..=5, 2..60), changed in any::<prop::sample::Index>(), weight in 1u32..=10,
    ) {
        let set: Set = (0..).zip(weights).collect();
        let changed = changed.index(set.len()) as u32;
        let old = set[changed as usize].1;
        for kind in ALL {
            let (before, after) = (owners(kind, &set, FEWER_KEYS), owners(kind, &reweighted(&set, changed, weight), FEWER_KEYS));
            let needless = needlessly_moved(&before, &after, changed);
            prop_assert!(needless <= needless_bound(kind, MAGLEV_ON_WEIGHT), "{kind:?}: {needless}");
            if kind != Kind::Maglev {
                let count = |owners: &[u32]| owners.iter().filter(|o| **o == changed).count();
                prop_assert!(weight < old || count(&after) >= count(&before), "a higher weight loses nothing");
                prop_assert!(weight > old || count(&after) <= count(&before), "a lower weight wins nothing");
            }
        }
    }

    #[test]
    fn the_order_in_which_endpoints_are_named_moves_nothing(
        set in prop::collection::btree_map(0u32..1_000, 0u32..=5, 1..40).prop_shuffle_pair(),
    ) {
        let (set, shuffled) = set;
        prop_assume!(set.iter().any(|(_, w)| *w > 0));
        for kind in ALL {
            prop_assert_eq!(owners(kind, &set, 2_000), owners(kind, &shuffled, 2_000));
        }
    }
}

/// A set in the order of its names, and the same set shuffled.
trait ShufflePair {
    fn prop_shuffle_pair(self) -> impl Strategy<Value = (Set, Set)>;
}

impl<S: Strategy<Value = std::collections::BTreeMap<u32, u32>>> ShufflePair for S {
    fn prop_shuffle_pair(self) -> impl Strategy<Value = (Set, Set)> {
        self.prop_flat_map(|map| {
            let set: Set = map.into_iter().collect();
            (Just(set.clone()), Just(set).prop_shuffle())
        })
    }
}
