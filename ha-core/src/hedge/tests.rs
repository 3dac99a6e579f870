use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(100);

fn of(percentile: Percentile) -> Config {
    Config {
        delay: Delay::Percentile(percentile),
        ..Config::default()
    }
}

fn hedge(percentile: Percentile, now: Instant) -> Hedge {
    Hedge::new(of(percentile), now).unwrap()
}

#[test]
fn nothing_is_hedged_before_there_are_enough_samples_nor_after_they_are_too_old() {
    let start = Instant::now();
    let hedge = hedge(Percentile::default(), start);
    assert_eq!(hedge.delay(start), None);
    for taken in 1..50 {
        hedge.record(MS * taken, start);
    }
    assert_eq!(hedge.delay(start + TICK), None, "49 are too few");
    hedge.record(MS * 50, start);
    assert_eq!(hedge.delay(start + TICK * 2), Some(MS * 48));
    let last = start + Duration::from_secs(60) - MS;
    assert_eq!(hedge.delay(last), Some(MS * 48));
    assert_eq!(hedge.delay(start + Duration::from_secs(60)), None);
}

#[test]
fn the_percentile_is_the_nearest_rank_and_kept_within_its_bounds() {
    let start = Instant::now();
    for (percentile, minimum, maximum, expected) in [
        (50.0, 1, 1_000, 50),
        (90.0, 1, 1_000, 90),
        (95.0, 1, 1_000, 95),
        (99.0, 1, 1_000, 99),
        (99.9, 1, 1_000, 100),
        (95.0, 200, 1_000, 200),
        (95.0, 1, 20, 20),
        (95.0, 30, 30, 30),
    ] {
        let hedge = hedge(
            Percentile {
                percentile,
                minimum: MS * minimum,
                maximum: MS * maximum,
                ..Percentile::default()
            },
            start,
        );
        // In an order that is not the sorted one.
        for taken in 0..100u32 {
            hedge.record(MS * (taken * 37 % 100 + 1), start);
        }
        assert_eq!(
            hedge.delay(start),
            Some(MS * expected),
            "{percentile} within {minimum}..={maximum}"
        );
    }
}

#[test]
fn old_samples_make_room_for_new_ones() {
    let start = Instant::now();
    let hedge = hedge(Percentile::default(), start);
    for _ in 0..2_000 {
        hedge.record(MS * 500, start);
    }
    for _ in 0..1_024 {
        hedge.record(MS * 2, start);
    }
    assert_eq!(hedge.delay(start), Some(MS * 2));
}

#[test]
fn the_delay_follows_within_a_tick_and_a_clock_that_lags_changes_nothing() {
    let start = Instant::now();
    let hedge = hedge(Percentile::default(), start);
    for _ in 0..50 {
        hedge.record(MS * 5, start + TICK);
    }
    assert_eq!(hedge.delay(start + TICK), Some(MS * 5));
    for _ in 0..50 {
        hedge.record(MS * 9, start + TICK);
    }
    assert_eq!(hedge.delay(start + TICK), Some(MS * 5), "once per tick");
    assert_eq!(hedge.delay(start + TICK * 2), Some(MS * 9));
    assert_eq!(hedge.delay(start), Some(MS * 9), "a late caller");
}

#[test]
fn what_was_given_up_counts_only_from_the_percentile_on() {
    let start = Instant::now();
    let hedge = hedge(Percentile::default(), start);
    hedge.outlasted(MS * 900, start);
    for _ in 0..95 {
        hedge.record(MS * 10, start);
    }
    assert_eq!(
        hedge.delay(start + TICK),
        Some(MS * 10),
        "nothing to outlast yet"
    );
    for _ in 0..50 {
        hedge.outlasted(MS, start + TICK);
    }
    assert_eq!(hedge.delay(start + TICK * 2), Some(MS * 10));
    for _ in 0..5 {
        hedge.outlasted(MS * 30, start + TICK);
    }
    assert_eq!(hedge.delay(start + TICK * 3), Some(MS * 10), "95 of 100");
    hedge.outlasted(MS * 30, start + TICK);
    assert_eq!(hedge.delay(start + TICK * 4), Some(MS * 30), "95 of 101");
}

#[test]
fn a_fixed_delay_measures_nothing_and_never_changes() {
    let start = Instant::now();
    let config = Config {
        delay: Delay::Fixed(MS * 7),
        ..Config::default()
    };
    let hedge = Hedge::new(config, start).unwrap();
    assert!(!hedge.measures());
    hedge.record(MS, start);
    hedge.outlasted(MS, start);
    assert_eq!(hedge.delay(start + TICK), Some(MS * 7));
}

#[test]
fn hedges_follow_each_other_by_a_delay_up_to_their_number_and_before_the_deadline() {
    let last = Instant::now();
    for max_hedges in [1, 2] {
        let config = Config {
            max_hedges,
            ..Config::default()
        };
        let hedge = Hedge::new(config, last).unwrap();
        for hedges in 0..4 {
            let at = hedge.next(Sent { hedges, last }, MS * 9, None);
            assert_eq!(at, (hedges < max_hedges).then_some(last + MS * 9));
        }
        let sent = Sent { hedges: 0, last };
        for (deadline, sent_before_it) in [(8, false), (9, false), (10, true)] {
            let at = hedge.next(sent, MS * 9, Some(last + MS * deadline));
            assert_eq!(at.is_some(), sent_before_it, "{deadline} ms");
        }
        assert_eq!(hedge.next(sent, Duration::MAX, None), None);
    }
}

#[test]
fn senseless_settings_are_refused_by_name_and_value() {
    let zero = Duration::ZERO;
    let standard = Percentile::default;
    let fixed = |delay| Config {
        delay: Delay::Fixed(delay),
        ..Config::default()
    };
    let hedges = |max_hedges| Config {
        max_hedges,
        ..Config::default()
    };
    let percentile = |percentile| {
        of(Percentile {
            percentile,
            ..standard()
        })
    };
    let samples = |minimum_samples| {
        of(Percentile {
            minimum_samples,
            ..standard()
        })
    };
    let window = |window| {
        of(Percentile {
            window,
            ..standard()
        })
    };
    let bounds = |minimum, maximum| {
        of(Percentile {
            minimum,
            maximum,
            ..standard()
        })
    };
    for (config, message) in [
        (hedges(0), "hedge.max_hedges is 0: must be 1 or 2"),
        (hedges(3), "hedge.max_hedges is 3: must be 1 or 2"),
        (fixed(zero), "hedge.delay is 0ns: must be longer than zero"),
        (
            fixed(Duration::from_secs(86_401)),
            "hedge.delay is 86401s: must not be longer than a day",
        ),
        (
            percentile(f64::NAN),
            "hedge.percentile is NaN: must be within 50.0..=99.9",
        ),
        (
            percentile(0.95),
            "hedge.percentile is 0.95: must be within 50.0..=99.9",
        ),
        (
            percentile(100.0),
            "hedge.percentile is 100: must be within 50.0..=99.9",
        ),
        (
            percentile(f64::INFINITY),
            "hedge.percentile is inf: must be within 50.0..=99.9",
        ),
        (
            samples(9),
            "hedge.minimum_samples is 9: must be from 10 to 1024",
        ),
        (
            samples(1_025),
            "hedge.minimum_samples is 1025: must be from 10 to 1024",
        ),
        (window(zero), "hedge.window is 0ns: must be at least 1s"),
        (
            window(Duration::from_secs(86_401)),
            "hedge.window is 86401s: must not be longer than a day",
        ),
        (
            bounds(zero, MS),
            "hedge.minimum is 0ns: must be longer than zero",
        ),
        (
            bounds(MS * 2, MS),
            "hedge.minimum is 2ms: must not be longer than hedge.maximum",
        ),
        (
            bounds(MS, Duration::from_secs(86_401)),
            "hedge.maximum is 86401s: must not be longer than a day",
        ),
    ] {
        let refused = Hedge::new(config, Instant::now()).unwrap_err();
        assert_eq!(refused.to_string(), message);
    }
    assert_eq!(Config::default().validate(), Ok(()));
}

/// What is measured of a call whose first attempt takes `first` and whose hedge takes `second`.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Ours,
    /// The time of whichever attempt won.
    Winner,
    /// Only first attempts that won.
    Survivors,
}

/// The share of calls that are hedged in the end, when times have an exponential distribution.
fn hedged_ratio(rule: Rule) -> f64 {
    let start = Instant::now();
    let hedge = hedge(Percentile::default(), start);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let uniform = (state >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-0.02 * (1.0 - uniform).ln())
    };
    const CALLS: u32 = 40_000;
    let mut hedged = 0;
    for call in 0..CALLS {
        let now = start + MS * 5 * call;
        let (first, second) = (draw(), draw());
        let delay = hedge.delay(now).filter(|delay| first > *delay);
        hedged += u32::from(delay.is_some() && call > CALLS / 2);
        let lost = delay.map(|delay| delay + second).filter(|end| *end < first);
        match (lost, rule) {
            (None, _) => hedge.record(first, now),
            (Some(end), Rule::Ours) => hedge.outlasted(end, now),
            (Some(_), Rule::Winner) => hedge.record(second, now),
            (Some(_), Rule::Survivors) => {}
        }
    }
    f64::from(hedged) / f64::from(CALLS / 2)
}

#[test]
fn hedging_does_not_talk_itself_into_hedging_more() {
    let ours = hedged_ratio(Rule::Ours);
    assert!((0.04..0.06).contains(&ours), "{ours}");
}

#[test]
fn the_naive_measures_do() {
    for rule in [Rule::Winner, Rule::Survivors] {
        let ratio = hedged_ratio(rule);
        assert!(ratio > 0.08, "{rule:?}: {ratio}");
    }
}

proptest! {
    #[test]
    fn the_delay_is_that_of_a_plain_list(
        calls in proptest::collection::vec((0u64..300, 0u64..5_000), 0..1_500),
        percentile in 50.0..99.9f64,
        minimum_samples in 10u32..200,
        idle in 0u64..90,
    ) {
        let start = Instant::now();
        let hedge = hedge(
            Percentile {
                percentile,
                minimum_samples,
                maximum: Duration::from_secs(60),
                ..Percentile::default()
            },
            start,
        );
        let mut now = start;
        let mut all = Vec::new();
        for (pause, micros) in calls {
            now += Duration::from_millis(pause);
            hedge.record(Duration::from_micros(micros), now);
            all.push((now, micros.max(1)));
        }
        now += Duration::from_secs(idle);
        let tick = |at: Instant| at.duration_since(start).as_millis() / 100;
        let mut live: Vec<u64> = all
            .iter()
            .rev()
            .take(1_024)
            .filter(|(at, _)| tick(now) - tick(*at) < 600)
            .map(|(_, micros)| *micros)
            .collect();
        live.sort_unstable();
        let expected = (live.len() >= minimum_samples as usize).then(|| {
            let rank = (percentile / 100.0 * live.len() as f64).ceil() as usize;
            Duration::from_micros(live[rank.max(1) - 1]).max(MS)
        });
        prop_assert_eq!(hedge.delay(now), expected);
    }

    #[test]
    fn no_time_panics(before in 0u64..1_000_000, latency: u64, later in 0u64..u64::from(u32::MAX)) {
        let now = Instant::now();
        let start = now + Duration::from_millis(before);
        let hedge = hedge(Percentile::default(), start);
        // From before it was made to a century after.
        for at in [now, start, start + Duration::from_secs(later)] {
            hedge.record(Duration::from_nanos(latency), at);
            hedge.outlasted(Duration::MAX, at);
            let _ = hedge.delay(at);
        }
    }
}
