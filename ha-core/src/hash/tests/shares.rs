use super::bed::*;
use super::*;
use crate::endpoint::{EndpointKey, Weight};
use proptest::prelude::*;

fn worst_error(pick: impl Fn(u64) -> Option<usize>, set: &Set, count: u32) -> f64 {
    let mut hits = vec![0.0; set.len()];
    for hash in keys(count) {
        hits[pick(hash).unwrap()] += 1.0;
    }
    let sum: u32 = set.iter().map(|(_, w)| w).sum();
    let error = |(hits, (_, weight)): (&f64, &(u32, u32))| {
        let expected = f64::from(*weight) / f64::from(sum) * f64::from(count);
        (hits - expected).abs() / expected
    };
    hits.iter().zip(set).map(error).fold(0.0, f64::max)
}

fn mixed() -> Set {
    vec![(0, 1), (1, 2), (2, 3), (3, 4), (4, 10)]
}

#[test]
fn maglev_and_rendezvous_follow_the_weights_within_two_percent() {
    for set in [equal(2), equal(10), mixed()] {
        for kind in [Kind::Maglev, Kind::Rendezvous] {
            let table = table(kind, &set);
            let error = worst_error(|hash| table.pick(hash), &set, 400_000);
            assert!(error < 0.02, "{kind:?} {set:?}: {error}");
        }
    }
}

#[test]
fn a_ring_follows_the_weights_as_well_as_its_points_allow() {
    let names: Vec<EndpointKey> = (0..5).map(|i| format!("app{i}").into()).collect();
    let set = mixed();
    for (points_per_weight, tolerance) in [(160, 0.2), (2_500, 0.05), (40_000, 0.02)] {
        let config = RingConfig {
            points_per_weight,
            ..RingConfig::default()
        };
        let weights = set.iter().map(|(_, w)| Weight::new(*w).unwrap());
        let ring = Ring::new(&config, names.iter().zip(weights)).unwrap();
        assert_eq!(ring.points(), 20 * points_per_weight as usize);
        let error = worst_error(|hash| ring.pick(hash), &set, 400_000);
        assert!(error < tolerance, "{points_per_weight}: {error}");
    }
}

#[test]
fn numbers_counted_upwards_are_spread_like_hashes() {
    for kind in ALL {
        let table = table(kind, &equal(4));
        let mut hits = [0; 4];
        for number in 0..10_000 {
            hits[table.pick(number).unwrap()] += 1;
        }
        assert!(
            hits.iter().all(|n| (2_000..3_000).contains(n)),
            "{kind:?} {hits:?}"
        );
    }
}

#[test]
fn the_ring_keeps_between_its_smallest_and_its_largest_size() {
    let names = ["a", "b", "c"].map(EndpointKey::from);
    for (points_per_weight, weights, points) in [
        (1, [1, 1, 1], 100),
        (1, [2, 1, 1], 100),
        (20, [1, 3, 2], 120),
        (160, [1, 1, 1], 200 - 2),
        (u32::MAX, [1_000_000, 1, 1_000_000], 200 - 1 + 1),
    ] {
        let config = RingConfig {
            points_per_weight,
            min_points: 100,
            max_points: 200,
        };
        let weights = weights.map(|w| Weight::new(w).unwrap());
        let ring = Ring::new(&config, names.iter().zip(weights)).unwrap();
        assert!(ring.points().abs_diff(points) <= 2, "{}", ring.points());
        let picked: std::collections::HashSet<_> = keys(10_000).map(|h| ring.pick(h)).collect();
        assert_eq!(picked.len(), 3, "even the lightest has a point");
    }
}

#[test]
fn weight_zero_and_nobody_get_no_picks() {
    for kind in ALL {
        let some = table(kind, &vec![(0, 0), (1, 5), (2, 0), (3, 5)]);
        assert!(keys(1_000).all(|hash| matches!(some.pick(hash), Some(1 | 3))));
        assert!(keys(10).all(|hash| some.candidates(hash).all(|i| i == 1 || i == 3)));
        for nobody in [vec![], vec![(0, 0), (1, 0)]] {
            let nobody = table(kind, &nobody);
            assert_eq!(nobody.pick(7), None);
            assert_eq!(nobody.candidates(7).next(), None);
        }
    }
}

#[test]
fn senseless_settings_are_refused_by_name_and_value() {
    let none = std::iter::empty::<(&EndpointKey, Weight)>;
    let ring = |points_per_weight, min_points, max_points| {
        let config = RingConfig {
            points_per_weight,
            min_points,
            max_points,
        };
        Ring::new(&config, none()).unwrap_err()
    };
    let maglev = |table_size| Maglev::new(&MaglevConfig { table_size }, none()).unwrap_err();
    for (error, field, value) in [
        (ring(0, 0, 1), "ring.points_per_weight", "0"),
        (ring(1, 0, 0), "ring.max_points", "0"),
        (ring(1, 9, 8), "ring.min_points", "9"),
        (maglev(0), "maglev.table_size", "0"),
        (maglev(65_536), "maglev.table_size", "65536"),
        (maglev(5_000_077), "maglev.table_size", "5000077"),
    ] {
        assert_eq!((error.field(), error.value()), (field, value));
    }
}

#[test]
fn more_endpoints_than_entries_and_a_key_that_is_there_twice_are_refused() {
    let names = ["a", "b", "c", "d"].map(EndpointKey::from);
    let config = MaglevConfig { table_size: 3 };
    let table = |n: usize| Maglev::new(&config, names[..n].iter().map(|k| (k, Weight::ONE)));
    assert!(table(3).is_ok());
    assert_eq!(table(4).unwrap_err().field(), "maglev.table_size");
    for kind in ALL {
        let error = build(kind, &vec![(0, 1), (1, 1), (0, 0)]).err().unwrap();
        assert_eq!(
            (error.field(), error.value()),
            ("endpoint.key", "app0:3000")
        );
    }
}

#[test]
fn hashes_are_those_of_the_published_algorithm_at_every_length_class() {
    // The buffer and the figures of the reference implementation's self-test.
    let mut state = 2_654_435_761u64;
    let buffer: Vec<u8> = std::iter::repeat_with(|| {
        let byte = (state >> 56) as u8;
        state = state.wrapping_mul(11_400_714_785_074_694_797);
        byte
    })
    .take(403)
    .collect();
    for (len, expected) in [
        (0, 0x2d06_8005_38d3_94c2),
        (1, 0xc44b_dff4_074e_ecdb),
        (6, 0x27b5_6a84_cd2d_7325),
        (12, 0xa713_daf0_dfbb_77e7),
        (24, 0xa3fe_70bf_9d35_10eb),
        (48, 0x397d_a259_ecba_1f11),
        (80, 0xbcde_fbbb_2c47_c90a),
        (195, 0xcd94_217e_e362_ec3a),
        (403, 0xcdeb_804d_65c6_dea4),
    ] {
        assert_eq!(hash_key(&buffer[..len]), expected, "{len} bytes");
    }
}

#[test]
fn picks_are_the_same_in_every_version() {
    let set = mixed();
    assert_eq!(
        ALL.map(|kind| owners(kind, &set, 12)),
        [
            [4, 4, 3, 4, 4, 4, 4, 0, 3, 4, 3, 2],
            [3, 3, 2, 2, 4, 3, 3, 4, 4, 3, 4, 3],
            [0, 0, 2, 1, 4, 4, 4, 1, 3, 4, 4, 2],
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rendezvous_and_maglev_keep_any_small_weights_within_two_percent_and_chance(
        weights in prop::collection::vec(1u32..=10, 1..12),
    ) {
        let set: Set = (0..).zip(weights).collect();
        let sum: u32 = set.iter().map(|(_, w)| w).sum();
        let lightest = set.iter().map(|(_, w)| *w).min().unwrap_or(1);
        // Four standard deviations of the sample.
        let chance = 4.0 / (100_000.0 * f64::from(lightest) / f64::from(sum)).sqrt();
        for kind in [Kind::Maglev, Kind::Rendezvous] {
            let table = table(kind, &set);
            let error = worst_error(|hash| table.pick(hash), &set, 100_000);
            prop_assert!(error < 0.02 + chance, "{kind:?}: {error}");
        }
    }
}
