use std::sync::Arc;

use proptest::prelude::*;

use super::Standing::{Available, Failing, RegionSick, Suspect};
use super::*;
use crate::endpoint::{Endpoint, Locality, Weight};

fn place(region: &str, zone: &str) -> Locality {
    Locality {
        region: region.into(),
        zone: zone.into(),
    }
}

fn endpoint(i: usize, priority: u8, region: &str, zone: &str) -> Endpoint {
    let mut endpoint: Endpoint = format!("http://host{i}").parse().unwrap();
    endpoint.priority = priority;
    endpoint.locality = place(region, zone);
    endpoint
}

/// `n` endpoints for each `(priority, region, zone, n)`.
fn fleet(parts: &[(u8, &str, &str, usize)]) -> Vec<Endpoint> {
    let places = parts
        .iter()
        .flat_map(|(p, r, z, n)| std::iter::repeat_n((*p, *r, *z), *n));
    places
        .enumerate()
        .map(|(i, (priority, region, zone))| endpoint(i, priority, region, zone))
        .collect()
}

fn standings(text: &str) -> Vec<Standing> {
    text.chars()
        .filter(|c| *c != ' ')
        .map(|c| match c {
            '+' => Available,
            '?' => Suspect,
            '-' => Failing,
            _ => RegionSick,
        })
        .collect()
}

fn shares_of(config: &Config, fleet: &[Endpoint], text: &str) -> Shares {
    let standings = standings(text);
    assert_eq!(standings.len(), fleet.len(), "{text}");
    let layout = Layout::new(config, fleet).unwrap();
    layout.shares(|i| standings[i])
}

#[track_caller]
fn expect(config: &Config, fleet: &[Endpoint], text: &str, expected: &[f64]) -> Shares {
    let shares = shares_of(config, fleet, text);
    let found: Vec<f64> = (0..expected.len()).map(|i| shares.share(i)).collect();
    let close = found
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() < 1e-9);
    assert!(close, "{text}: {found:?} instead of {expected:?}");
    shares
}

fn local(region: &str, zone: &str) -> Config {
    Config {
        local: place(region, zone),
        ..Config::default()
    }
}

#[test]
fn the_first_priority_takes_140_percent_of_what_is_available_and_the_rest_spills() {
    let fleet = fleet(&[(0, "", "", 10), (1, "", "", 10)]);
    for (text, expected) in [
        ("++++++++++ ++++++++++", [1.0, 0.0]),
        ("++++++++-- ++++++++++", [1.0, 0.0]),
        ("+++++++--- ++++++++++", [0.98, 0.02]),
        ("+++++----- ++++++++++", [0.7, 0.3]),
        ("+++++????? ++++++++++", [0.7, 0.3]),
        ("---------- ++++++++++", [0.0, 1.0]),
        // 14 and 28 of 100 are normalised.
        ("+--------- ++--------", [1.0 / 3.0, 2.0 / 3.0]),
        ("---------- ----------", [0.0, 0.0]),
    ] {
        expect(&Config::default(), &fleet, text, &expected);
    }
}

#[test]
fn capacity_is_counted_by_weight_and_weight_zero_belongs_nowhere() {
    let mut fleet = fleet(&[(0, "", "", 3), (1, "", "", 1)]);
    fleet[0].weight = Weight::new(8).unwrap();
    fleet[2].weight = Weight::ZERO;
    expect(&Config::default(), &fleet, "+--+", &[1.0, 0.0]);
    let layout = Layout::new(&Config::default(), &fleet).unwrap();
    assert_eq!(*layout.groups()[0].members, [0, 1]);
    assert_eq!(layout.groups()[0].weights().len(), 2);
    let shares = layout.shares(|i| if i == 0 { Failing } else { Available });
    assert!((shares.share(0) - 1.4 / 9.0).abs() < 1e-9);
}

#[test]
fn panic_needs_less_than_half_available_and_too_little_altogether() {
    let one = fleet(&[(0, "", "", 10)]);
    let two = fleet(&[(0, "", "", 10), (1, "", "", 10)]);
    for (fleet, text, panics) in [
        (&one, "+++++?????", false),
        (&one, "++++??????", true),
        // What fails its active check is no sign of overload: all that passes is available.
        (&one, "++--------", false),
        (&two, "++++?????? ++++++++++", false),
        (&two, "++++?????? ++++??????", false),
        (&two, "+????????? +?????????", true),
    ] {
        assert_eq!(
            shares_of(&Config::default(), fleet, text).is_panicking(0),
            panics,
            "{text}"
        );
    }
}

#[test]
fn panic_changes_who_is_picked_and_not_how_much_each_priority_gets() {
    let fleet = fleet(&[(0, "", "", 10), (1, "", "", 10)]);
    let text = "+????????? ++++++----";
    let total = 0.14 + 0.84;
    let shares = expect(
        &Config::default(),
        &fleet,
        text,
        &[0.14 / total, 0.84 / total],
    );
    assert!(shares.is_panicking(0) && !shares.is_panicking(1));
    assert!(shares.is_any_panicking());
}

#[test]
fn with_nothing_available_all_that_pass_their_check_are_used_and_those_that_fail_never() {
    let fleet = fleet(&[(0, "", "", 2), (1, "", "", 2)]);
    expect(&Config::default(), &fleet, "-- ??", &[0.0, 1.0]);
    expect(&Config::default(), &fleet, "?- ??", &[0.7, 0.3]);
    let none = expect(&Config::default(), &fleet, "-- --", &[0.0, 0.0]);
    assert_eq!(none.draw(7), None);
    let never = Config {
        panic_ratio: 0.0,
        ..Config::default()
    };
    assert_eq!(shares_of(&never, &fleet, "?? ??").draw(7), None);
}

#[test]
fn the_own_region_comes_first_then_those_named_then_all_others_by_capacity() {
    let mut config = local("eu", "");
    config.next_regions = vec!["uk".into()];
    let fleet = fleet(&[
        (0, "eu", "", 4),
        (0, "uk", "", 4),
        (0, "ap", "", 3),
        (0, "us", "", 1),
    ]);
    // Groups: eu, uk, ap, us.
    for (text, expected) in [
        ("++++ ++++ +++ +", [1.0, 0.0, 0.0, 0.0]),
        ("++-- ++++ +++ +", [0.7, 0.3, 0.0, 0.0]),
        ("---- +--- +++ +", [0.0, 0.35, 0.65 * 0.75, 0.65 * 0.25]),
        ("---- ---- +++ +", [0.0, 0.0, 0.75, 0.25]),
    ] {
        expect(&config, &fleet, text, &expected);
    }
}

#[test]
fn the_own_zone_comes_first_within_the_share_of_the_own_region() {
    let config = local("eu", "a");
    let fleet = fleet(&[
        (0, "eu", "a", 2),
        (0, "eu", "b", 2),
        (0, "eu", "c", 2),
        (0, "us", "a", 2),
    ]);
    // Groups: own zone, the rest of the own region, us.
    for (text, expected) in [
        ("++ ++ ++ ++", [1.0, 0.0, 0.0]),
        ("+- ++ ++ ++", [0.7, 0.3, 0.0]),
        ("-- ++ ++ ++", [0.0, 1.4 * 4.0 / 6.0, 1.0 - 1.4 * 4.0 / 6.0]),
        ("-- -- -- ++", [0.0, 0.0, 1.0]),
    ] {
        expect(&config, &fleet, text, &expected);
    }
    let layout = Layout::new(&config, &fleet).unwrap();
    let own: Vec<bool> = layout.groups().iter().map(|group| group.own_zone).collect();
    assert_eq!(
        own,
        [true, false, false],
        "zone a of another region is another zone"
    );
}

#[test]
fn without_a_place_of_its_own_a_caller_spreads_over_all_places_by_capacity() {
    let fleet = fleet(&[(0, "ap", "", 1), (0, "eu", "", 2), (0, "us", "", 1)]);
    expect(&Config::default(), &fleet, "+ ++ +", &[0.25, 0.5, 0.25]);
    expect(&Config::default(), &fleet, "+ +- +", &[1.0 / 3.0; 3]);
}

#[test]
fn a_region_that_calls_itself_sick_is_skipped_with_all_that_stand_in_it() {
    let config = local("eu", "");
    let fleet = fleet(&[(0, "eu", "", 3), (0, "us", "", 2)]);
    for (text, expected) in [
        ("ss+ ++", [0.0, 1.0]),
        // One voice of three is no majority.
        ("s++ ++", [1.4 * 2.0 / 3.0, 1.0 - 1.4 * 2.0 / 3.0]),
        // Nobody else can answer.
        ("ss+ --", [1.0, 0.0]),
        ("ss+ ss", [1.0, 0.0]),
        ("sss ss", [1.0, 0.0]),
        ("sss --", [1.0, 0.0]),
        ("s-- --", [0.0, 0.0]),
    ] {
        expect(&config, &fleet, text, &expected);
    }
}

#[test]
fn the_negative_control_without_the_rule_sends_most_traffic_into_the_sick_region() {
    let fleet = fleet(&[(0, "eu", "", 3), (0, "us", "", 2)]);
    let shares = shares_of(&local("eu", ""), &fleet, "--+ ++");
    assert!(shares.share(0) > 0.4);
}

#[test]
fn what_was_not_drawn_is_offered_in_order_of_preference_if_it_has_anything() {
    let fleet = fleet(&[
        (0, "", "", 1),
        (1, "", "", 1),
        (2, "", "", 1),
        (3, "", "", 1),
    ]);
    let shares = shares_of(&Config::default(), &fleet, "++-+");
    assert_eq!(shares.draw(42), Some(0));
    assert_eq!(shares.others(0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(shares.others(1).collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn a_misspelt_region_can_be_noticed() {
    let fleet = fleet(&[(0, "eu", "", 1)]);
    for (region, known) in [("eu", true), ("ue", false)] {
        let layout = Layout::new(&local(region, ""), &fleet).unwrap();
        assert_eq!(layout.local_region_is_known(), known);
        assert_eq!(
            layout.shares(|_| Available).draw(0),
            Some(0),
            "and serves all the same"
        );
    }
}

#[test]
fn no_endpoints_are_no_groups() {
    let layout = Layout::new(&Config::default(), &[]).unwrap();
    assert!(layout.groups().is_empty());
    let shares = layout.shares(|_| Available);
    assert_eq!(shares.draw(0), None);
    assert!(!shares.is_panicking(0));
    assert_eq!(shares.share(9), 0.0);
}

#[test]
fn senseless_settings_are_refused_by_name_and_value() {
    type Spoil = fn(&mut Config);
    let cases: [(Spoil, &str); 7] = [
        (
            |c| c.over_provisioning = f64::NAN,
            "spread.over_provisioning is NaN",
        ),
        (
            |c| c.over_provisioning = 0.9,
            "spread.over_provisioning is 0.9",
        ),
        (|c| c.panic_ratio = 50.0, "spread.panic_ratio is 50"),
        (|c| c.local = place("", "a"), "spread.local.zone is \"a\""),
        (
            |c| c.next_regions = vec!["".into()],
            "spread.next_regions is \"\"",
        ),
        (
            |c| c.next_regions = vec!["us".into(), "us".into()],
            "spread.next_regions is \"us\"",
        ),
        (
            |c| {
                c.local = place("eu", "");
                c.next_regions = vec![Arc::from("eu")];
            },
            "spread.next_regions is \"eu\"",
        ),
    ];
    for (spoil, text) in cases {
        let mut config = Config::default();
        spoil(&mut config);
        let error = Layout::new(&config, &[]).unwrap_err().to_string();
        assert!(error.starts_with(text), "{text}: {error}");
    }
}

fn any_fleet() -> impl Strategy<Value = Vec<(Endpoint, Standing)>> {
    let one = (0u8..3, 0usize..4, 0usize..3, 0u32..5, 0usize..4);
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(i, (priority, region, zone, weight, standing))| {
            let region = ["", "eu", "us", "ap"][region];
            let mut endpoint = endpoint(i, priority, region, ["", "a", "b"][zone]);
            endpoint.weight = Weight::new(weight).unwrap();
            (
                endpoint,
                [Available, Suspect, Failing, RegionSick][standing],
            )
        })
        .collect()
    })
}

proptest! {
    #[test]
    fn shares_sum_to_one_where_anything_is_usable_and_draws_hit_only_what_is(
        fleet in any_fleet(),
        randoms in prop::collection::vec(any::<u64>(), 20),
    ) {
        let mut config = local("eu", "a");
        config.next_regions = vec!["us".into()];
        let layout = Layout::new(&config, fleet.iter().map(|(endpoint, _)| endpoint)).unwrap();
        let shares = layout.shares(|i| fleet[i].1);
        let sum: f64 = (0..layout.groups().len()).map(|i| shares.share(i)).sum();
        let weighty = |(endpoint, _): &&(Endpoint, Standing)| endpoint.weight > Weight::ZERO;
        let any = fleet.iter().filter(weighty).any(|(_, s)| matches!(s, Available | Suspect));
        let says_sick = fleet.iter().filter(weighty).any(|(_, s)| *s == RegionSick);
        let whole = (sum - 1.0).abs() < 1e-9;
        prop_assert!(whole || sum == 0.0 && !any, "{}", sum);
        prop_assert!(any || says_sick || sum == 0.0, "{}", sum);
        for random in randoms {
            let drawn = shares.draw(random);
            prop_assert_eq!(drawn.is_some(), whole);
            if let Some(drawn) = drawn {
                let panic = shares.is_panicking(drawn);
                let usable = |m: &u32| match fleet[*m as usize].1 {
                    Available => true,
                    Suspect => panic,
                    RegionSick => shares.uses_sick(drawn),
                    Failing => false,
                };
                prop_assert!(layout.groups()[drawn].members.iter().any(usable));
            }
        }
    }

    #[test]
    fn draws_follow_the_shares_within_two_percent(fleet in any_fleet(), seed in any::<u64>()) {
        let layout = Layout::new(&local("us", "b"), fleet.iter().map(|(e, _)| e)).unwrap();
        let shares = layout.shares(|i| fleet[i].1);
        let mut hits = vec![0u32; layout.groups().len()];
        const N: u32 = 4096;
        for i in 0..N {
            // Evenly over all numbers from a random start.
            let random = seed.wrapping_add(u64::from(i) << 52);
            if let Some(group) = shares.draw(random) {
                hits[group] += 1;
            }
        }
        for (i, hits) in hits.iter().enumerate() {
            prop_assert!((f64::from(*hits) / f64::from(N) - shares.share(i)).abs() < 0.02);
        }
    }

    #[test]
    fn every_endpoint_with_a_weight_is_in_exactly_one_group(fleet in any_fleet()) {
        let layout = Layout::new(&local("eu", "b"), fleet.iter().map(|(e, _)| e)).unwrap();
        let mut seen: Vec<u32> = layout.groups().iter().flat_map(|g| g.members.to_vec()).collect();
        seen.sort_unstable();
        let expected: Vec<u32> = (0u32..)
            .zip(&fleet)
            .filter(|(_, (endpoint, _))| endpoint.weight > Weight::ZERO)
            .map(|(i, _)| i)
            .collect();
        prop_assert_eq!(seen, expected);
    }
}
