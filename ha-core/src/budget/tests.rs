use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

fn config(retry_ratio: f64, reserve_per_second: f64) -> Config {
    Config {
        retry_ratio,
        reserve_per_second,
        ..Config::default()
    }
}

fn drained(budget: &Budget, now: Instant) -> usize {
    (0..1_000_000).take_while(|_| budget.withdraw(now)).count()
}

#[test]
fn a_quiet_client_has_the_reserve_of_one_window() {
    let t0 = Instant::now();
    assert_eq!(drained(&Budget::standard(t0), t0), 100);
}

#[test]
fn a_fifth_of_the_requests_may_be_retried() {
    let t0 = Instant::now();
    for (requests, retries) in [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (1_000, 200)] {
        let budget = Budget::new(config(0.2, 0.0), t0).unwrap();
        (0..requests).for_each(|_| budget.deposit(t0));
        assert_eq!(drained(&budget, t0), retries, "{requests} requests");
    }
}

#[test]
fn requests_and_retries_leave_the_window_together() {
    let t0 = Instant::now();
    let at = |millis| t0 + Duration::from_millis(millis);
    let budget = Budget::new(config(0.5, 0.0), t0).unwrap();
    (0..10).for_each(|_| budget.deposit(at(500)));
    assert_eq!(drained(&budget, at(9_999)), 5);
    assert_eq!(
        drained(&budget, at(10_000)),
        0,
        "the requests are gone, the retries are not"
    );
    (0..10).for_each(|_| budget.deposit(at(18_900)));
    assert_eq!(
        drained(&budget, at(18_999)),
        0,
        "the five retries of second nine still count"
    );
    assert_eq!(drained(&budget, at(19_000)), 5);
}

#[test]
fn an_idle_day_forgets_everything() {
    let t0 = Instant::now();
    let budget = Budget::standard(t0);
    assert_eq!(drained(&budget, t0), 100);
    assert_eq!(drained(&budget, t0 + Duration::from_secs(86_400)), 100);
}

#[test]
fn a_clock_that_lags_behind_another_thread_gains_nothing() {
    let t0 = Instant::now();
    let budget = Budget::new(config(1.0, 0.1), t0).unwrap();
    assert_eq!(drained(&budget, t0 + Duration::from_secs(30)), 1);
    budget.deposit(t0);
    assert_eq!(drained(&budget, t0), 0);
}

#[test]
fn bad_values_are_refused_by_name() {
    let t0 = Instant::now();
    let windowed = |window| Config {
        window,
        ..Config::default()
    };
    for (bad, message) in [
        (
            config(f64::NAN, 1.0),
            "budget.retry_ratio is NaN: must be within 0.0..=1.0",
        ),
        (
            config(-0.1, 1.0),
            "budget.retry_ratio is -0.1: must be within 0.0..=1.0",
        ),
        (
            config(1.1, 1.0),
            "budget.retry_ratio is 1.1: must be within 0.0..=1.0",
        ),
        (
            config(0.2, -1.0),
            "budget.reserve_per_second is -1: must be a finite number of at least 0",
        ),
        (
            config(0.2, f64::NAN),
            "budget.reserve_per_second is NaN: must be a finite number of at least 0",
        ),
        (
            config(0.2, f64::INFINITY),
            "budget.reserve_per_second is inf: must be a finite number of at least 0",
        ),
        (
            windowed(Duration::from_millis(999)),
            "budget.window is 999ms: must be from 1s to 1h",
        ),
        (
            windowed(Duration::MAX),
            "budget.window is 18446744073709551615.999999999s: must be from 1s to 1h",
        ),
    ] {
        assert_eq!(Budget::new(bad, t0).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_shortest_window_still_slides_after_ten_years() {
    let t0 = Instant::now();
    let shortest = Config {
        window: Duration::from_secs(1),
        ..config(0.0, 3.0)
    };
    let budget = Budget::new(shortest, t0).unwrap();
    for years in [0, 1, 10] {
        let now = t0 + Duration::from_secs(years * 365 * 86_400);
        assert_eq!(drained(&budget, now), 3, "{years} years");
        assert_eq!(drained(&budget, now + Duration::from_secs(1)), 3);
    }
}

#[test]
fn a_retry_given_back_can_be_taken_again_and_only_once() {
    let t0 = Instant::now();
    let budget = Budget::new(config(0.0, 0.2), t0).unwrap();
    assert_eq!(drained(&budget, t0), 2);
    budget.refund(t0);
    assert_eq!(drained(&budget, t0), 1);
}

#[test]
fn a_refund_of_what_left_the_window_gives_nothing() {
    let t0 = Instant::now();
    let budget = Budget::new(config(0.0, 0.2), t0).unwrap();
    assert_eq!(drained(&budget, t0), 2);
    let later = t0 + Duration::from_secs(10);
    assert_eq!(drained(&budget, later), 2);
    budget.refund(t0);
    assert_eq!(drained(&budget, later), 0);
}

/// Eight threads fail at once and together may take exactly what one could.
#[test]
fn threads_together_never_take_more_than_the_budget() {
    let t0 = Instant::now();
    for round in 0..20 {
        let budget = Budget::new(config(0.2, 0.0), t0).unwrap();
        let (taken, barrier) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..500 {
                        budget.deposit(t0);
                        if budget.withdraw(t0) {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let taken = taken.into_inner();
        let rest = drained(&budget, t0);
        assert_eq!(
            taken + rest,
            800,
            "round {round}: a fifth of 4000, no count lost"
        );
    }
}

/// The negative control: looking first and taking afterwards, as two steps, overdraws in the same situation.
#[test]
fn looking_and_taking_in_two_steps_would_overdraw() {
    let (room, taken, barrier) = (AtomicUsize::new(1), AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let fits = room.load(Ordering::Relaxed) > 0;
                barrier.wait();
                if fits {
                    room.store(0, Ordering::Relaxed);
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(taken.into_inner() > 1);
}

proptest! {
    /// Whatever the order of requests, retries and pauses: a granted retry keeps the rule, a refused one would break it.
    #[test]
    fn every_window_that_ends_with_a_retry_keeps_the_rule(
        ratio in 0.0f64..=1.0,
        reserve in 0.0f64..3.0,
        steps in prop::collection::vec((0u64..1_500, 0usize..30, 0usize..30), 1..60),
    ) {
        let t0 = Instant::now();
        let budget = Budget::new(config(ratio, reserve), t0).unwrap();
        let mut millis = 0;
        let mut ticks: Vec<(usize, usize)> = Vec::new();
        for (pause, requests, tries) in steps {
            millis += pause;
            let now = t0 + Duration::from_millis(millis);
            let tick = usize::try_from(millis / 1_000).unwrap();
            ticks.resize(ticks.len().max(tick + 1), (0, 0));
            for _ in 0..requests {
                budget.deposit(now);
                ticks[tick].0 += 1;
            }
            let taken = (0..tries).filter(|_| budget.withdraw(now)).count();
            ticks[tick].1 += taken;
            let window = &ticks[(tick + 1).saturating_sub(TICKS)..];
            let (requests, retries) = window.iter().fold((0, 0), |sum, at| (sum.0 + at.0, sum.1 + at.1));
            let allowed = ratio * requests as f64 + reserve * 10.0;
            if taken > 0 {
                prop_assert!(retries as f64 <= allowed + 1e-6, "{retries} retries, {allowed} allowed");
            }
            if taken < tries {
                prop_assert!((retries + 1) as f64 > allowed - 1e-6, "refused {retries} of {allowed}");
            }
        }
    }
}
