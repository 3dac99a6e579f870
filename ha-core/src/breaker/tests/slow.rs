use super::*;

const LIMIT: Duration = Duration::from_millis(200);
const QUICK: Duration = Duration::from_millis(5);

fn config() -> Config {
    Config {
        minimum_calls: 10,
        slow_calls: Some(SlowCalls::over(LIMIT)),
        ..Config::default()
    }
}

#[test]
fn slow_successes_open_it_at_exactly_the_ratio_and_not_before() {
    let bed = Bed::new(config());
    for _ in 0..2 {
        assert_eq!(bed.timed(Outcome::Success, QUICK), None);
    }
    for i in 0..7 {
        assert_eq!(bed.timed(Outcome::Success, SEC), None, "slow call {i}");
    }
    assert_eq!(bed.breaker.snapshot(bed.now).slow_calls, 7);
    assert_eq!(bed.timed(Outcome::Success, SEC), Some(State::Open));
    let snapshot = bed.breaker.snapshot(bed.now);
    assert_eq!(snapshot.tripped_by, Some(Trip::SlowCallRatio));
    assert_eq!(snapshot.failures, 0);
}

#[test]
fn a_call_of_exactly_the_threshold_is_quick() {
    let bed = Bed::new(config());
    for _ in 0..100 {
        assert_eq!(bed.timed(Outcome::Success, LIMIT), None);
    }
    assert_eq!(bed.breaker.snapshot(bed.now).slow_calls, 0);
}

#[test]
fn slow_calls_are_nothing_where_they_are_not_to_count() {
    let bed = Bed::new(Config {
        slow_calls: None,
        ..config()
    });
    assert_eq!(bed.breaker.slow_after(), None);
    for _ in 0..100 {
        assert_eq!(bed.timed(Outcome::Success, Duration::MAX), None);
    }
    assert_eq!(bed.breaker.snapshot(bed.now).slow_calls, 0);
}

#[test]
fn slow_calls_leave_the_window_as_failures_do() {
    let mut bed = Bed::new(config());
    for _ in 0..9 {
        assert_eq!(bed.timed(Outcome::Success, SEC), None);
    }
    bed.now += 10 * SEC;
    assert_eq!(bed.breaker.snapshot(bed.now).slow_calls, 0);
    for _ in 0..9 {
        assert_eq!(bed.timed(Outcome::Success, SEC), None);
    }
    assert_eq!(bed.timed(Outcome::Success, SEC), Some(State::Open));
}

#[test]
fn a_slow_failure_counts_as_both_and_a_slow_success_ends_the_row() {
    let bed = Bed::new(Config {
        minimum_calls: 100,
        ..config()
    });
    for _ in 0..4 {
        assert_eq!(bed.timed(Outcome::Failure, SEC), None);
    }
    let snapshot = bed.breaker.snapshot(bed.now);
    assert_eq!((snapshot.failures, snapshot.slow_calls), (4, 4));
    bed.timed(Outcome::Success, SEC);
    assert_eq!(bed.breaker.snapshot(bed.now).consecutive_failures, 0);
}

#[test]
fn a_slow_probe_opens_it_again_and_a_quick_one_does_not() {
    let mut bed = Bed::new(config());
    for (took, opened) in [(SEC, Some(State::Open)), (QUICK, None)] {
        bed.breaker.reset();
        for _ in 0..5 {
            bed.call(Outcome::Failure);
        }
        bed.now += 5 * SEC;
        assert_eq!(bed.timed(Outcome::Success, took), opened);
        let trips = if opened.is_some() { 2 } else { 1 };
        assert_eq!(bed.breaker.snapshot(bed.now).trips, trips);
    }
}

#[test]
fn closing_it_forgets_the_slow_calls() {
    let bed = Bed::new(config());
    for _ in 0..9 {
        bed.timed(Outcome::Success, SEC);
    }
    bed.breaker.reset();
    assert_eq!(bed.breaker.snapshot(bed.now).slow_calls, 0);
    for _ in 0..9 {
        assert_eq!(bed.timed(Outcome::Success, SEC), None);
    }
}
