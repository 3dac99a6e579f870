use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::*;
use super::{MS, Random, start};

fn throttle(now: Instant) -> Throttle {
    Throttle::new(ThrottleConfig::default(), now).unwrap()
}

fn ratio(throttle: &Throttle, now: Instant) -> f64 {
    throttle.snapshot(Priority::Default, now).reject_ratio
}

#[test]
fn the_ratio_is_that_of_the_book() {
    for (accepted, refused, expected) in [
        (0, 0, 0.0),
        (100, 0, 0.0),
        (50, 50, 0.0),
        (25, 75, 50.0 / 101.0),
        (0, 1, 0.5),
        (0, 9, 0.9),
        (10, 990, 980.0 / 1_001.0),
    ] {
        let now = start();
        let throttle = throttle(now);
        (0..accepted).for_each(|_| throttle.record(Priority::Default, true, now));
        (0..refused).for_each(|_| throttle.record(Priority::Default, false, now));
        let found = ratio(&throttle, now);
        assert!(
            (found - expected).abs() < 1e-12,
            "{accepted} {refused}: {found}"
        );
    }
}

#[test]
fn a_random_number_below_the_ratio_refuses_and_counts() {
    let now = start();
    let throttle = throttle(now);
    (0..9).for_each(|_| throttle.record(Priority::Default, false, now));
    assert!(throttle.admit(Priority::Default, now, || 0.9));
    assert_eq!(throttle.snapshot(Priority::Default, now).requests, 9);
    assert!(!throttle.admit(Priority::Default, now, || 0.89));
    assert_eq!(throttle.snapshot(Priority::Default, now).requests, 10);
}

#[test]
fn all_is_well_asks_for_no_random_number() {
    let now = start();
    let throttle = throttle(now);
    throttle.record(Priority::Default, true, now);
    assert!(throttle.admit(Priority::Default, now, || panic!("not needed")));
}

#[test]
fn one_in_a_hundred_goes_out_however_long_the_outage() {
    let now = start();
    let throttle = throttle(now);
    (0..100_000).for_each(|_| throttle.record(Priority::Default, false, now));
    assert!((ratio(&throttle, now) - 0.99).abs() < 1e-12);
}

#[test]
fn a_burst_before_the_first_answer_goes_out() {
    let now = start();
    let throttle = throttle(now);
    let sent = (0..1_000).filter(|_| throttle.admit(Priority::Default, now, || 0.0));
    assert_eq!(sent.count(), 1_000);
}

#[test]
fn each_priority_has_its_own_ratio() {
    let now = start();
    let throttle = throttle(now);
    (0..99).for_each(|_| throttle.record(Priority::Sheddable, false, now));
    assert!(!throttle.admit(Priority::Sheddable, now, || 0.5));
    for priority in [Priority::Critical, Priority::Default] {
        assert!(throttle.admit(priority, now, || 0.0));
    }
}

#[test]
fn what_is_older_than_the_window_is_forgotten_bucket_by_bucket() {
    let now = start();
    let throttle = throttle(now);
    let at = |seconds| now + Duration::from_secs(seconds);
    throttle.record(Priority::Default, false, at(0));
    throttle.record(Priority::Default, false, at(10));
    for (seconds, expected) in [
        (0, 1),
        (10, 2),
        (119, 2),
        (120, 1),
        (129, 1),
        (130, 0),
        (100_000, 0),
    ] {
        let found = throttle.snapshot(Priority::Default, at(seconds)).requests;
        // At 0 s the second one lies ahead, as after a clock that went back.
        assert_eq!(found, expected, "{seconds}");
    }
}

#[test]
fn a_clock_that_lags_spoils_no_newer_bucket() {
    let now = start();
    let throttle = throttle(now);
    let later = now + Duration::from_secs(120);
    throttle.record(Priority::Default, true, later);
    // The same bucket, one turn earlier.
    throttle.record(Priority::Default, false, now);
    assert_eq!(throttle.snapshot(Priority::Default, later).accepts, 1);
    assert_eq!(throttle.snapshot(Priority::Default, later).requests, 1);
}

#[test]
fn more_than_fits_keeps_the_ratio() {
    let now = start();
    let throttle = throttle(now);
    for i in 0..1_200_000u32 {
        throttle.record(Priority::Default, i % 10 == 0, now);
    }
    let seen = throttle.snapshot(Priority::Default, now);
    let accepted = seen.accepts as f64 / seen.requests as f64;
    assert!((accepted - 0.1).abs() < 0.001, "{seen:?}");
    assert!((seen.reject_ratio - 0.8).abs() < 0.002, "{seen:?}");
}

/// A server that accepts a hundred per second, and a client that wants four hundred.
#[test]
fn a_server_sees_about_twice_what_it_accepts_and_everything_again_once_it_can() {
    let begin = start();
    let throttle = throttle(begin);
    let mut random = Random(7);
    let mut second = |i: u64, capacity: u32| {
        let (mut seen, mut accepted) = (0, 0);
        for step in 0..400u64 {
            let now = begin + Duration::from_secs(i) + Duration::from_micros(2_500 * step);
            if throttle.admit(Priority::Default, now, || random.unit()) {
                seen += 1;
                let accept = accepted < capacity;
                accepted += u32::from(accept);
                throttle.record(Priority::Default, accept, now);
            }
        }
        seen
    };
    let overload: Vec<u32> = (0..240).map(|i| second(i, 100)).collect();
    let late: u32 = overload[180..].iter().sum();
    assert!((180..=220).contains(&(late / 60)), "{}", late / 60);
    let after: Vec<u32> = (240..480).map(|i| second(i, 1_000)).collect();
    assert_eq!(after.last(), Some(&400));
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name_and_value() {
    let good = ThrottleConfig::default();
    for (config, field, value) in [
        (
            ThrottleConfig {
                multiplier: 0.9,
                ..good
            },
            "throttle.multiplier",
            "0.9",
        ),
        (
            ThrottleConfig {
                multiplier: f64::NAN,
                ..good
            },
            "throttle.multiplier",
            "NaN",
        ),
        (
            ThrottleConfig {
                multiplier: f64::INFINITY,
                ..good
            },
            "throttle.multiplier",
            "inf",
        ),
        (
            ThrottleConfig {
                window: 999 * MS,
                ..good
            },
            "throttle.window",
            "999ms",
        ),
        (
            ThrottleConfig {
                window: 3_601_000 * MS,
                ..good
            },
            "throttle.window",
            "3601s",
        ),
        (
            ThrottleConfig {
                max_reject_ratio: 1.01,
                ..good
            },
            "throttle.max_reject_ratio",
            "1.01",
        ),
        (
            ThrottleConfig {
                max_reject_ratio: -0.1,
                ..good
            },
            "throttle.max_reject_ratio",
            "-0.1",
        ),
    ] {
        let error = Throttle::new(config, start()).unwrap_err();
        assert_eq!((error.field(), error.value()), (field, value));
    }
}

proptest! {
    /// Beside a list of everything that happened.
    #[test]
    fn what_is_counted_is_what_happened_in_the_last_twelve_buckets(
        events in prop::collection::vec((0u64..40, any::<bool>()), 0..100),
    ) {
        let begin = start();
        let throttle = throttle(begin);
        let mut model = Vec::new();
        let mut second = 0;
        for (wait, accepted) in events {
            second += wait;
            let now = begin + Duration::from_secs(second);
            throttle.record(Priority::Default, accepted, now);
            model.push((second / 10, accepted));
            let live = model.iter().filter(|(bucket, _)| bucket + 12 > second / 10);
            let seen = throttle.snapshot(Priority::Default, now);
            prop_assert_eq!(seen.requests, live.clone().count() as u64);
            prop_assert_eq!(seen.accepts, live.filter(|(_, accepted)| *accepted).count() as u64);
            prop_assert!((0.0..=0.99).contains(&seen.reject_ratio));
        }
    }
}
