use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn load() -> (PeakEwma, Instant) {
    let now = Instant::now();
    (PeakEwma::new(Config::default(), now).unwrap(), now)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= b.abs() * 1e-3 + 1.0
}

#[test]
fn a_peak_replaces_the_estimate_and_a_lower_sample_blends_in_by_the_time_passed() {
    let (load, now) = load();
    load.record(10 * MS, now);
    load.record(100 * MS, now + SEC);
    assert!(close(load.estimate(now + SEC).as_nanos() as f64, 100e6));
    load.record(10 * MS, now + 11 * SEC);
    let kept = (-1.0f64).exp();
    let expected = 100e6 * kept + 10e6 * (1.0 - kept);
    assert!(close(
        load.estimate(now + 11 * SEC).as_nanos() as f64,
        expected
    ));
}

/// A hundred milliseconds once, and then these each half second.
fn estimate_after(samples: &[Duration]) -> Duration {
    let (load, mut now) = load();
    load.record(100 * MS, now);
    for sample in samples {
        now += SEC / 2;
        load.record(*sample, now);
    }
    load.estimate(now)
}

#[test]
fn after_three_calm_seconds_the_estimate_is_the_highest_of_them() {
    let calm = [MS, 2 * MS, MS, MS, MS, MS, MS];
    assert!(estimate_after(&calm[..6]) > 70 * MS, "only 2.5 s are over");
    let calm = estimate_after(&calm);
    assert!(close(calm.as_nanos() as f64, 2e6), "{calm:?}");
}

#[test]
fn one_slow_sample_in_three_seconds_keeps_the_estimate_up() {
    let samples: Vec<_> = (1..=40)
        .map(|i| if i % 5 == 0 { 60 * MS } else { MS })
        .collect();
    let mut least = Duration::MAX;
    for n in 1..=samples.len() {
        least = least.min(estimate_after(&samples[..n]));
    }
    assert!(least > 45 * MS, "{least:?}");
    let (load, now) = load();
    load.record(100 * MS, now);
    load.record(MS, now + SEC);
    load.record_unanswered(MS, now + 2 * SEC);
    load.record(MS, now + 5 * SEC);
    assert!(
        load.estimate(now + 5 * SEC) > 50 * MS,
        "a timeout is no calm"
    );
}

#[test]
fn a_penalty_that_has_faded_to_a_millisecond_is_over() {
    let (load, now) = load();
    load.penalize(None, now);
    assert!(load.cost(now + 8 * SEC) > 1e6);
    assert_eq!(load.cost(now + 9 * SEC), 0.0);
    assert_eq!(load.pending_cost(|| now + 9 * SEC), 1.0);
}

#[test]
fn a_read_decays_and_stores_nothing() {
    let (load, now) = load();
    load.record(100 * MS, now);
    for _ in 0..1000 {
        let later = load.estimate(now + 10 * SEC).as_nanos() as f64;
        assert!(close(later, 100e6 * (-1.0f64).exp()));
    }
    assert!(close(load.estimate(now).as_nanos() as f64, 100e6));
}

#[test]
fn cost_counts_what_is_in_flight_and_the_next_one() {
    let (load, now) = load();
    load.record(10 * MS, now);
    for n in 0..4 {
        assert!(close(load.cost(now), 10e6 * f64::from(n + 1)));
        load.start();
    }
    load.finish();
    assert_eq!(load.in_flight(), 3);
}

#[test]
fn a_newcomer_is_free_until_its_first_request_is_pending() {
    let (load, now) = load();
    assert_eq!(load.cost(now), 0.0);
    load.start();
    assert!(
        close(load.cost(now), 2e9),
        "one second, times one in flight and the next"
    );
}

#[test]
fn the_cheaper_of_two_siblings_wins_and_a_tie_goes_to_the_one_asked() {
    let (a, now) = load();
    let b = a.sibling();
    assert!(a.beats(&b, now) && b.beats(&a, now));
    a.record(MS, now);
    b.record(2 * MS, now);
    assert!(a.beats(&b, now) && !b.beats(&a, now));
    a.start();
    a.start();
    assert!(b.beats(&a, now), "three times 1 ms is more than 2 ms");
}

#[test]
fn a_loser_is_picked_once_a_second_while_idle_and_more_rarely_the_slower_it_is() {
    // A second of latency fades to 427 ms in 8.53 s, which is twenty times that.
    for (latency, rest) in [(10 * MS, SEC), (SEC, 8_530 * MS)] {
        let (quick, now) = load();
        let slow = quick.sibling();
        quick.record(MS, now);
        slow.record(latency, now);
        slow.picked(now);
        let (early, late) = (now + rest - 50 * MS, now + rest + 50 * MS);
        quick.picked(early);
        assert!(!slow.beats(&quick, early), "{latency:?}");
        assert!(slow.beats(&quick, late), "{latency:?}");
        slow.start();
        assert!(!slow.beats(&quick, late), "{latency:?}: it is being tried");
    }
}

#[test]
fn counts_need_no_clock_while_nothing_fails() {
    let (load, now) = load();
    load.start();
    assert_eq!(load.pending_cost(|| unreachable!()), 2.0);
    load.penalize(None, now);
    assert!(close(load.pending_cost(|| now), 5_002.0));
}

#[test]
fn who_has_fewer_is_who_has_the_lower_cost_by_counts() {
    let now = Instant::now();
    let loads = |starts: [u32; 2], penalized: [bool; 2]| {
        let one = PeakEwma::new(Config::default(), now).unwrap();
        let both = [one.sibling(), one];
        for ((load, starts), penalized) in both.iter().zip(starts).zip(penalized) {
            (0..starts).for_each(|_| load.start());
            if penalized {
                load.penalize(None, now);
            }
        }
        both
    };
    for starts in [[0, 0], [0, 1], [1, 0], [3, 3]] {
        for penalized in [[false, false], [false, true], [true, false], [true, true]] {
            let [a, b] = loads(starts, penalized);
            let expected = a.pending_cost(|| now) <= b.pending_cost(|| now);
            assert_eq!(
                a.has_fewer(&b, || now),
                expected,
                "{starts:?} {penalized:?}"
            );
            if penalized == [false, false] {
                assert_eq!(a.has_fewer(&b, || unreachable!()), expected);
            }
        }
    }
}

#[test]
fn the_short_way_to_a_decay_is_the_long_way_to_five_digits() {
    let rate = rate(Duration::from_secs(10));
    for units in (0..40_000).step_by(7) {
        let exact = (-f64::from(units) * f64::from(rate)).exp();
        let short = f64::from(kept(0, units, rate));
        assert!((short - exact).abs() < 1e-5, "{units}: {short} {exact}");
    }
}

#[test]
fn a_fast_failure_costs_more_than_a_slow_success_and_fades_soon() {
    let (failing, now) = load();
    let (slow, _) = load();
    failing.record(MS, now);
    failing.penalize(None, now);
    slow.record(500 * MS, now);
    assert!(failing.cost(now) > slow.cost(now));
    let later = now + 10 * SEC;
    assert!(failing.penalty(later) < MS);
    assert!(failing.cost(later) < slow.cost(later));
}

#[test]
fn the_negative_control_without_a_penalty_prefers_the_fast_failure() {
    let (failing, now) = load();
    let (slow, _) = load();
    failing.record(MS, now);
    slow.record(500 * MS, now);
    assert!(failing.cost(now) < slow.cost(now));
}

#[test]
fn penalties_do_not_pile_up_and_obey_retry_after_up_to_five_minutes() {
    let (load, now) = load();
    for _ in 0..100 {
        load.penalize(None, now);
    }
    assert!(close(load.penalty(now).as_nanos() as f64, 5e9));
    load.penalize(Some(20 * SEC), now);
    assert!(close(load.penalty(now).as_nanos() as f64, 20e9));
    load.penalize(Some(Duration::MAX), now);
    assert!(close(load.penalty(now).as_nanos() as f64, 300e9));
}

#[test]
fn an_unanswered_request_makes_it_look_as_slow_as_the_wait() {
    let (load, now) = load();
    load.record(MS, now);
    load.record_unanswered(SEC, now + SEC);
    assert!(close(load.estimate(now + SEC).as_nanos() as f64, 1e9));
    load.record_unanswered(MS, now + SEC);
    assert!(
        close(load.estimate(now + SEC).as_nanos() as f64, 1e9),
        "never quicker"
    );
}

#[test]
fn a_clock_read_earlier_on_another_thread_does_not_undo_time() {
    let (load, now) = load();
    load.record(100 * MS, now + SEC);
    load.record(50 * MS, now);
    let estimate = load.estimate(now + SEC).as_nanos() as f64;
    assert!(close(estimate, 100e6), "{estimate}");
}

#[test]
fn zero_latencies_and_centuries_are_survived() {
    let (load, now) = load();
    load.record(Duration::ZERO, now);
    load.record(Duration::MAX, now);
    assert!(load.cost(now).is_finite());
    assert!(load.cost(now + 1_000_000 * SEC).is_finite());
}

#[test]
fn senseless_numbers_are_refused_by_name() {
    let config = Config {
        decay: Duration::ZERO,
        ..Config::default()
    };
    let error = PeakEwma::new(config, Instant::now()).unwrap_err();
    assert_eq!(error.field(), "load.decay");
}

proptest! {
    #[test]
    fn the_packed_estimate_agrees_with_the_formula_in_double_precision(
        samples in prop_oneof![
            // Shorter than a calm, or never calm.
            prop::collection::vec((20u64..50_000, 1u64..2_000_000), 1..50),
            prop::collection::vec((20u64..5_000_000, 1_000_001u64..2_000_000), 1..50),
        ],
    ) {
        let (load, mut now) = load();
        let mut model: Option<f64> = None;
        for (gap_micros, sample_micros) in samples {
            now += Duration::from_micros(gap_micros);
            let sample = sample_micros as f64 * 1e3;
            let share = (-(gap_micros as f64 / 1e6) / 10.0).exp();
            model = Some(match model {
                Some(old) if old * share >= sample => old * share + sample * (1.0 - share),
                _ => sample,
            });
            load.record(Duration::from_micros(sample_micros), now);
            let (got, want) = (load.estimate(now).as_nanos() as f64, model.unwrap());
            prop_assert!((got - want).abs() <= want * 0.005 + 1_000.0, "{got} {want}");
        }
    }
}
