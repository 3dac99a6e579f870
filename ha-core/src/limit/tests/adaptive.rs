use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::*;
use super::{MS, start};

fn config(algorithm: impl Into<Algorithm>) -> AdaptiveConfig {
    AdaptiveConfig {
        algorithm: algorithm.into(),
        ..AdaptiveConfig::default()
    }
}

struct Bed {
    adaptive: Adaptive,
    now: Instant,
}

impl Bed {
    fn new(config: AdaptiveConfig) -> Self {
        let now = start();
        let adaptive = Adaptive::new(config, now).unwrap();
        Self { adaptive, now }
    }

    /// A window of twenty samples, and the limit after it.
    fn window(&mut self, ending: Ending, in_flight: u32) -> u32 {
        self.now += Duration::from_secs(2);
        for _ in 0..20 {
            self.adaptive.record(ending, in_flight, self.now, || 0.5);
        }
        // The window ended with its tenth sample; what came after would be the next one's.
        self.now += Duration::from_secs(2);
        self.adaptive.record(ending, in_flight, self.now, || 0.5);
        self.adaptive.limit()
    }

    /// So many windows that are all the same.
    fn windows(&mut self, n: u32, ending: Ending, in_flight: u32) -> u32 {
        for _ in 0..n {
            self.window(ending, in_flight);
        }
        self.adaptive.limit()
    }
}

const ALL: [Algorithm; 3] = [
    Algorithm::Aimd(Aimd {
        latency: Duration::from_secs(5),
    }),
    Algorithm::Gradient2(Gradient2 {
        tolerance: 1.2,
        queue: 4,
        smoothing: 0.2,
    }),
    Algorithm::Vegas(Vegas {
        alpha: 3.0,
        beta: 6.0,
    }),
];

#[test]
fn a_limit_in_use_rises_while_latency_stays() {
    for algorithm in ALL {
        let mut bed = Bed::new(config(algorithm));
        let limit = bed.windows(10, Ending::Answered(10 * MS), 1_000);
        assert!(limit > 25, "{algorithm:?}: {limit}");
    }
}

#[test]
fn a_limit_that_is_not_in_use_does_not_rise() {
    for algorithm in ALL {
        let mut bed = Bed::new(config(algorithm));
        let limit = bed.windows(50, Ending::Answered(10 * MS), 9);
        assert_eq!(limit, 20, "{algorithm:?}");
    }
}

#[test]
fn losses_lower_the_limit_down_to_its_minimum_and_no_further() {
    for algorithm in ALL {
        let mut bed = Bed::new(config(algorithm));
        let first = bed.window(Ending::Lost, 20);
        assert!(first < 20, "{algorithm:?}");
        assert_eq!(bed.windows(50, Ending::Lost, 20), 4, "{algorithm:?}");
    }
}

#[test]
fn a_stray_loss_among_many_answers_is_none() {
    for algorithm in ALL {
        let mut bed = Bed::new(AdaptiveConfig {
            samples: 100,
            ..config(algorithm)
        });
        for i in 1..=400 {
            bed.now += MS;
            let ending = if i % 25 == 0 {
                Ending::Lost
            } else {
                Ending::Answered(10 * MS)
            };
            bed.adaptive.record(ending, 5, bed.now, || 0.5);
        }
        assert_eq!(bed.adaptive.limit(), 20, "{algorithm:?}");
    }
}

#[test]
fn latency_that_rises_lowers_the_limit_where_latency_counts() {
    for algorithm in &ALL[1..] {
        let mut bed = Bed::new(config(*algorithm));
        bed.windows(5, Ending::Answered(10 * MS), 1);
        let before = bed.adaptive.limit();
        let after = bed.windows(3, Ending::Answered(100 * MS), 1_000);
        assert!(after < before, "{algorithm:?}: {before} {after}");
    }
}

#[test]
fn a_probe_halves_the_limit_for_two_windows_and_learns_the_undisturbed_latency() {
    let mut bed = Bed::new(config(Vegas::default()));
    let start = bed.now;
    let mut end_window = |latency| {
        bed.now += Duration::from_secs(2);
        for _ in 0..10 {
            bed.adaptive
                .record(Ending::Answered(latency), 20, bed.now, || 0.5);
        }
        bed.adaptive.snapshot()
    };
    // The first window in use asks for it: the overload may have been there before.
    let draining = end_window(30 * MS);
    assert!(draining.probing && draining.limit <= 13, "{draining:?}");
    let measuring = end_window(20 * MS);
    assert!(measuring.probing, "{measuring:?}");
    let done = end_window(10 * MS);
    assert!(!done.probing && done.limit >= 20, "{done:?}");
    let near = |latency: Option<Duration>| latency.unwrap().abs_diff(10 * MS) < MS / 1_000;
    assert!(near(done.base_latency), "{done:?}");

    // Then not before three quarters of the interval.
    while bed.now < start + Duration::from_secs(27) {
        bed.now += Duration::from_secs(2);
        for _ in 0..10 {
            bed.adaptive
                .record(Ending::Answered(10 * MS), 1_000, bed.now, || 0.5);
        }
        assert!(!bed.adaptive.snapshot().probing);
    }
}

#[test]
fn a_caller_that_left_counts_only_when_it_had_waited_longer_than_the_mean() {
    let mut bed = Bed::new(config(Vegas::default()));
    bed.window(Ending::Answered(10 * MS), 1);
    let latency = |bed: &Bed| bed.adaptive.snapshot().latency.unwrap();
    bed.windows(3, Ending::Abandoned(MS), 1);
    assert!(latency(&bed) < 11 * MS);
    bed.windows(3, Ending::Abandoned(40 * MS), 1);
    assert!(latency(&bed) > 20 * MS, "{:?}", latency(&bed));
}

#[test]
fn few_samples_change_nothing_however_long_they_take() {
    let bed = Bed::new(config(Aimd::default()));
    for i in 0..9 {
        let now = bed.now + Duration::from_secs(60 * i);
        assert_eq!(bed.adaptive.record(Ending::Lost, 20, now, || 0.5), None);
    }
    let now = bed.now + Duration::from_secs(600);
    let change = bed.adaptive.record(Ending::Lost, 20, now, || 0.5);
    assert_eq!(change, Some(Change { from: 20, to: 18 }));
}

#[test]
fn a_clock_that_stands_or_goes_back_ends_no_window() {
    let bed = Bed::new(config(Aimd::default()));
    let early = bed.now.checked_sub(Duration::from_secs(5)).unwrap();
    for now in [bed.now, early] {
        for _ in 0..1_000 {
            assert_eq!(bed.adaptive.record(Ending::Lost, 20, now, || 0.5), None);
        }
    }
}

#[test]
fn latencies_of_any_length_are_survived() {
    for algorithm in ALL {
        let mut bed = Bed::new(config(algorithm));
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let limit = bed.windows(5, Ending::Answered(latency), u32::MAX);
            assert!((4..=1_000).contains(&limit), "{algorithm:?}");
        }
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name_and_value() {
    let good = AdaptiveConfig::default();
    let vegas = |alpha, beta| Vegas { alpha, beta };
    let gradient = Gradient2::default();
    for (config, field, value) in [
        (AdaptiveConfig { min: 0, ..good }, "limit.min", "0"),
        (AdaptiveConfig { max: 3, ..good }, "limit.max", "3"),
        (
            AdaptiveConfig {
                max: 1_000_001,
                ..good
            },
            "limit.max",
            "1000001",
        ),
        (AdaptiveConfig { initial: 3, ..good }, "limit.initial", "3"),
        (
            AdaptiveConfig {
                initial: 1_001,
                ..good
            },
            "limit.initial",
            "1001",
        ),
        (
            AdaptiveConfig {
                window: Duration::ZERO,
                ..good
            },
            "limit.window",
            "0ns",
        ),
        (
            AdaptiveConfig {
                window: 61_000 * MS,
                ..good
            },
            "limit.window",
            "61s",
        ),
        (AdaptiveConfig { samples: 0, ..good }, "limit.samples", "0"),
        (
            AdaptiveConfig {
                loss_ratio: 1.0,
                ..good
            },
            "limit.loss_ratio",
            "1",
        ),
        (
            AdaptiveConfig {
                loss_ratio: -0.1,
                ..good
            },
            "limit.loss_ratio",
            "-0.1",
        ),
        (
            AdaptiveConfig {
                loss_ratio: f64::NAN,
                ..good
            },
            "limit.loss_ratio",
            "NaN",
        ),
        (
            AdaptiveConfig {
                probe_interval: 999 * MS,
                ..good
            },
            "limit.probe_interval",
            "999ms",
        ),
        (
            AdaptiveConfig {
                probe_interval: Duration::MAX,
                ..good
            },
            "limit.probe_interval",
            &format!("{:?}", Duration::MAX),
        ),
        (
            config(Aimd {
                latency: Duration::ZERO,
            }),
            "aimd.latency",
            "0ns",
        ),
        (config(vegas(0.5, 6.0)), "vegas.alpha", "0.5"),
        (config(vegas(f64::NAN, 6.0)), "vegas.alpha", "NaN"),
        (config(vegas(3.0, 2.0)), "vegas.beta", "2"),
        (config(vegas(3.0, f64::INFINITY)), "vegas.beta", "inf"),
        (
            config(Gradient2 {
                tolerance: 0.9,
                ..gradient
            }),
            "gradient2.tolerance",
            "0.9",
        ),
        (
            config(Gradient2 {
                queue: 0,
                ..gradient
            }),
            "gradient2.queue",
            "0",
        ),
        (
            config(Gradient2 {
                smoothing: 0.0,
                ..gradient
            }),
            "gradient2.smoothing",
            "0",
        ),
        (
            config(Gradient2 {
                smoothing: 1.1,
                ..gradient
            }),
            "gradient2.smoothing",
            "1.1",
        ),
    ] {
        let error = Adaptive::new(config, start()).unwrap_err();
        assert_eq!((error.field(), error.value()), (field, value));
    }
}

fn endings() -> impl Strategy<Value = (Ending, u32, u64)> {
    let ending = prop_oneof![
        (0u64..10_000_000_000).prop_map(|ns| Ending::Answered(Duration::from_nanos(ns))),
        Just(Ending::Lost),
        (0u64..10_000_000_000).prop_map(|ns| Ending::Abandoned(Duration::from_nanos(ns))),
    ];
    (ending, 0u32..2_000, 0u64..400)
}

proptest! {
    #[test]
    fn the_limit_never_leaves_its_bounds(
        which in 0usize..3,
        (min, max) in (1u32..50).prop_flat_map(|min| (Just(min), min..200)),
        endings in prop::collection::vec(endings(), 1..400),
        draw in 0.0..1.0f64,
    ) {
        let mut now = start();
        let config = AdaptiveConfig {
            algorithm: ALL[which],
            min,
            max,
            initial: max,
            samples: 1,
            window: MS,
            probe_interval: 100 * MS,
            ..AdaptiveConfig::default()
        };
        let adaptive = Adaptive::new(config, now).unwrap();
        for (ending, in_flight, wait) in endings {
            now += Duration::from_millis(wait);
            let before = adaptive.limit();
            let change = adaptive.record(ending, in_flight, now, || draw);
            prop_assert!((min..=max).contains(&adaptive.limit()));
            let expected = (before != adaptive.limit()).then(|| Change { from: before, to: adaptive.limit() });
            prop_assert_eq!(change, expected);
            prop_assert_eq!(adaptive.snapshot().limit, adaptive.limit());
        }
    }
}
