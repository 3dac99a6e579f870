use proptest::prelude::*;

use super::super::window::{BUCKETS, COUNT_MASK, ERA_BITS, Window};
use super::*;
use crate::sync::Ordering;

/// The same rules written the slow and obvious way: a list of all calls.
struct Model {
    calls: Vec<(u64, bool)>,
}

impl Model {
    fn sum(&self, tick: u64) -> (u64, u64) {
        let inside = self.calls.iter().filter(|(at, _)| at + 10 > tick);
        inside.fold((0, 0), |(c, f), (_, failed)| {
            (c + 1, f + u64::from(*failed))
        })
    }
}

proptest! {
    #[test]
    fn the_window_agrees_with_a_list_of_all_calls(
        steps in prop::collection::vec((0u64..4_000, any::<bool>()), 1..300),
    ) {
        let config = Config { minimum_calls: u32::MAX, ..by_ratio_only() };
        let mut bed = Bed::new(config);
        let mut model = Model { calls: Vec::new() };
        let mut millis = 0;
        for (step, failed) in steps {
            millis += step;
            bed.now += Duration::from_millis(step);
            bed.call(if failed { Outcome::Failure } else { Outcome::Success });
            model.calls.push((millis / 1000, failed));
            let snapshot = bed.breaker.snapshot(bed.now);
            prop_assert_eq!((snapshot.calls, snapshot.failures), model.sum(millis / 1000));
        }
    }

    #[test]
    fn every_wait_is_inside_its_bounds(times in 1u32..200, random in 0.0f64..1.0) {
        let wait = Config::default().open_for(times, random);
        prop_assert!(wait >= 5 * SEC && wait <= 60 * SEC, "{wait:?}");
    }

    #[test]
    fn at_most_one_probe_is_out_whatever_happens(
        steps in prop::collection::vec((0u8..6, 0u64..8_000), 1..200),
    ) {
        let mut bed = Bed::new(Config { consecutive_failures: 2, ..Config::default() });
        let mut out = Vec::new();
        for (action, millis) in steps {
            bed.now += Duration::from_millis(millis);
            match action {
                0..=2 => {
                    if let Ok(permit) = bed.breaker.try_admit(bed.now) {
                        // A probe of an earlier half-open time may be out and is void.
                        let rivals = out.iter().filter(|p: &&Permit| {
                            p.is_probe() && p.gate() == bed.breaker.gate.load(Ordering::Relaxed)
                        });
                        prop_assert!(!permit.is_probe() || rivals.count() == 0);
                        out.push(permit);
                    }
                }
                3 => {
                    if let Some(permit) = out.pop() {
                        bed.breaker.record(permit, Outcome::Failure, bed.now, 0.5);
                    }
                }
                4 => {
                    if let Some(permit) = out.pop() {
                        bed.breaker.record(permit, Outcome::Success, bed.now, 0.5);
                    }
                }
                _ => {
                    if let Some(permit) = out.pop() {
                        bed.breaker.release(permit);
                    }
                }
            }
        }
    }
}

/// A long time now and then, and mostly a short one, with edges of buckets and eras among them.
fn gaps() -> impl Strategy<Value = u64> {
    let era = 1u64 << ERA_BITS;
    prop_oneof![
        4 => Just(0),
        6 => 0..3u64,
        2 => (BUCKETS - 2)..(BUCKETS + 2),
        1 => era - 12..era + 12,
        1 => (0u64..20, 0..24u64).prop_map(move |(eras, more)| eras * era + more),
    ]
}

proptest! {
    /// However long nobody calls, and however often the ticks wrap meanwhile.
    #[test]
    fn gaps_of_any_length_leave_exactly_what_is_in_the_window(
        steps in prop::collection::vec((gaps(), 1u64..5, any::<bool>()), 1..60),
    ) {
        let window = Window::new(Duration::from_nanos(BUCKETS));
        let mut all: Vec<(u64, u64, u64)> = Vec::new();
        let mut tick = 0;
        for (gap, calls, failed) in steps {
            tick += gap;
            let inside = all.iter().filter(|(at, ..)| at + BUCKETS > tick);
            let sum = inside.fold((0, 0), |sum, (_, c, f)| (sum.0 + c, sum.1 + f));
            prop_assert_eq!(window.sum(tick), sum);
            let failures = if failed { calls } else { 0 };
            window.record(tick, calls, failures);
            all.push((tick, calls, failures));
            prop_assert_eq!(window.sum(tick), (sum.0 + calls, sum.1 + failures));
        }
    }

    /// Threads read the clock and come here in another order.
    #[test]
    fn a_call_that_comes_late_counts_where_it_belongs_or_not_at_all(
        steps in prop::collection::vec((0u64..4, 0u64..25), 1..100),
        start in prop_oneof![Just(0u64), Just((1 << ERA_BITS) - 20)],
    ) {
        let window = Window::new(Duration::from_nanos(BUCKETS));
        let mut all = Vec::new();
        let mut newest = start;
        for (step, behind) in steps {
            newest += step;
            // The newest of all is there first.
            for tick in [newest, newest.saturating_sub(behind)] {
                window.record(tick, 1, 0);
                all.push(tick);
            }
            let inside = all.iter().filter(|at| **at + BUCKETS > newest).count();
            prop_assert_eq!(window.sum(newest), (inside as u64, 0));
        }
    }

    #[test]
    fn while_the_clock_stands_still_everything_counts(outcomes in prop::collection::vec(any::<bool>(), 1..300)) {
        let bed = Bed::new(Config { minimum_calls: u32::MAX, ..by_ratio_only() });
        for (i, failed) in outcomes.iter().enumerate() {
            bed.call(if *failed { Outcome::Failure } else { Outcome::Success });
            let failures = outcomes[..=i].iter().filter(|failed| **failed).count() as u64;
            let snapshot = bed.breaker.snapshot(bed.now);
            prop_assert_eq!((snapshot.calls, snapshot.failures), (i as u64 + 1, failures));
        }
    }
}

/// The negative control: words that are told apart by their low bits alone.
#[test]
fn without_eras_a_long_gap_would_bring_old_calls_back() {
    const TICKS: u64 = 1 << (ERA_BITS + 3);
    let window = Window::new(Duration::from_nanos(BUCKETS));
    window.record(5, 7, 7);
    let naive = |word_tick: u64, tick: u64| tick.wrapping_sub(word_tick) % TICKS < BUCKETS;
    assert!(naive(5, 5 + TICKS), "seven calls of a million ticks ago");
    assert_eq!(window.sum(5 + TICKS), (0, 0));
    // Half of that, and the old word would seem to be ahead of every new call.
    window.record(5 + TICKS + TICKS / 2 + 5, 1, 0);
    assert_eq!(window.sum(5 + TICKS + TICKS / 2 + 5), (1, 0));
}

#[test]
fn a_full_bucket_keeps_the_ratio() {
    let window = Window::new(Duration::from_nanos(BUCKETS));
    for _ in 0..COUNT_MASK / 1_000 {
        window.record(3, 1_000, 250);
    }
    let (calls, failures) = window.sum(3);
    assert_eq!(
        (calls / 1_000, failures / 250),
        (COUNT_MASK / 1_000, calls / 1_000)
    );
    for _ in 0..1_000 {
        window.record(3, 1_000, 250);
    }
    let (calls, failures) = window.sum(3);
    assert!(calls > COUNT_MASK / 2 && calls <= COUNT_MASK);
    assert!(failures.abs_diff(calls / 4) <= 2, "{failures} of {calls}");
}
