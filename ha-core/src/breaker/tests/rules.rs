use super::*;

#[test]
fn n_failures_in_a_row_open_it_and_a_success_between_starts_the_count_again() {
    let bed = Bed::new(Config::default());
    for _ in 0..4 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    bed.call(Outcome::Success);
    for _ in 0..4 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    assert!(bed.breaker.try_admit(bed.now).is_err());
}

#[test]
fn the_ratio_opens_it_at_exactly_half_of_a_hundred_and_not_before() {
    let bed = Bed::new(by_ratio_only());
    for _ in 0..50 {
        bed.call(Outcome::Success);
    }
    for i in 0..49 {
        assert_eq!(bed.call(Outcome::Failure), None, "failure {i}");
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
}

#[test]
fn successes_without_a_time_count_at_once_and_ask_the_clock_once_in_sixteen() {
    let bed = Bed::new(by_ratio_only());
    let mut reads = 0;
    for calls in 1..=50 {
        let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
        let read = || {
            reads += 1;
            bed.now
        };
        assert_eq!(bed.breaker.succeed(permit, read), None);
        assert_eq!(bed.breaker.snapshot(bed.now).calls, calls);
    }
    assert_eq!(reads, 3);
    for i in 0..49 {
        assert_eq!(bed.call(Outcome::Failure), None, "failure {i}");
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    bed.breaker.reset();
    assert_eq!(bed.breaker.snapshot(bed.now).calls, 0);
}

#[test]
fn what_has_a_time_leaves_the_window_and_only_the_last_few_without_one_stay() {
    let mut bed = Bed::new(by_ratio_only());
    for _ in 0..10_000 {
        let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
        bed.breaker.succeed(permit, || bed.now);
    }
    for _ in 0..4 {
        bed.call(Outcome::Failure);
        let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
        bed.breaker.succeed(permit, || bed.now);
    }
    assert_eq!(bed.breaker.snapshot(bed.now).consecutive_failures, 0);
    bed.now += 10 * SEC;
    assert_eq!(bed.breaker.snapshot(bed.now).calls, 10_004 % 16);
}

#[test]
fn the_ratio_says_nothing_below_the_minimum() {
    let bed = Bed::new(by_ratio_only());
    for _ in 0..99 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
}

#[test]
fn a_long_good_past_does_not_hide_a_bad_present() {
    let mut bed = Bed::new(by_ratio_only());
    for _ in 0..10_000 {
        bed.call(Outcome::Success);
    }
    bed.now += 10 * SEC;
    for _ in 0..99 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
}

#[test]
fn each_bucket_leaves_the_window_after_exactly_ten_steps() {
    let mut bed = Bed::new(by_ratio_only());
    for _ in 0..10 {
        bed.call(Outcome::Success);
        bed.now += SEC;
    }
    for left in (0..10).rev() {
        assert_eq!(bed.breaker.snapshot(bed.now).calls, left);
        bed.now += SEC;
    }
}

#[test]
fn an_idle_gap_far_beyond_the_window_leaves_nothing() {
    let mut bed = Bed::new(by_ratio_only());
    for _ in 0..90 {
        bed.call(Outcome::Failure);
    }
    for gap in [10, 20, 1_000, 100_000] {
        bed.now += gap * SEC;
        assert_eq!(bed.breaker.snapshot(bed.now).calls, 0, "after {gap} s");
    }
}

#[test]
fn open_waits_then_probes_one_at_a_time_then_closes() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    let rejected = bed.breaker.try_admit(bed.now).unwrap_err();
    assert_eq!(rejected.retry_in, Some(5 * SEC));
    bed.now += 5 * SEC - Duration::from_nanos(1);
    assert!(bed.breaker.try_admit(bed.now).is_err());
    bed.now += Duration::from_nanos(1);
    assert_eq!(bed.state(), State::HalfOpen);

    let probe = bed.breaker.try_admit(bed.now).unwrap();
    assert!(probe.is_probe());
    assert!(!bed.breaker.would_admit(bed.now));
    assert!(bed.breaker.try_admit(bed.now).is_err());
    assert_eq!(
        bed.breaker.record(probe, Outcome::Success, bed.now, 0.0),
        None
    );
    assert_eq!(bed.call(Outcome::Success), Some(State::Closed));
    assert_eq!(
        bed.breaker.snapshot(bed.now).calls,
        0,
        "a closed breaker starts afresh"
    );
}

#[test]
fn each_failed_probe_doubles_the_wait_up_to_the_longest() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    for seconds in [5, 10, 20, 40, 40, 40] {
        let wait = bed
            .breaker
            .try_admit(bed.now)
            .unwrap_err()
            .retry_in
            .unwrap();
        assert_eq!(
            wait,
            seconds * SEC,
            "the low end of the band, as random is 0"
        );
        bed.now += wait;
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    }
}

#[test]
fn a_probe_without_outcome_makes_room_for_the_next() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    bed.now += 5 * SEC;
    let probe = bed.breaker.try_admit(bed.now).unwrap();
    bed.breaker.release(probe);
    assert_eq!(bed.call(Outcome::Overloaded), None);
    assert_eq!(bed.state(), State::HalfOpen);
    assert!(bed.breaker.would_admit(bed.now));
}

#[test]
fn overload_counts_in_the_ratio_only() {
    let bed = Bed::new(Config::default());
    for _ in 0..99 {
        assert_eq!(bed.call(Outcome::Overloaded), None);
    }
    assert_eq!(bed.call(Outcome::Overloaded), Some(State::Open));
}

#[test]
fn results_of_an_earlier_state_are_not_counted() {
    let mut bed = Bed::new(Config::default());
    let late = bed.breaker.try_admit(bed.now).unwrap();
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    let slow_probe = {
        bed.now += 5 * SEC;
        bed.breaker.try_admit(bed.now).unwrap()
    };
    assert_eq!(
        bed.breaker.record(late, Outcome::Success, bed.now, 0.0),
        None
    );
    assert_eq!(bed.state(), State::HalfOpen);
    bed.breaker.reset();
    assert_eq!(
        bed.breaker
            .record(slow_probe, Outcome::Failure, bed.now, 0.0),
        None
    );
    assert_eq!(bed.state(), State::Closed);
}

#[test]
fn what_is_forced_stays_until_reset() {
    let mut bed = Bed::new(Config::default());
    bed.breaker.force_open();
    bed.now += 1_000_000 * SEC;
    assert_eq!(bed.breaker.try_admit(bed.now).unwrap_err().retry_in, None);
    assert_eq!(bed.state(), State::Open);
    bed.breaker.force_closed();
    for _ in 0..500 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    bed.breaker.reset();
    for _ in 0..4 {
        assert_eq!(bed.call(Outcome::Failure), None);
    }
    assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
}

#[test]
fn a_clock_that_steps_back_between_threads_does_no_harm() {
    let bed = Bed::new(by_ratio_only());
    let early = bed.now - SEC;
    let permit = bed.breaker.try_admit(early).unwrap();
    assert_eq!(
        bed.breaker.record(permit, Outcome::Failure, early, 0.0),
        None
    );
    assert_eq!(bed.breaker.snapshot(bed.now).failures, 1);
}

/// The negative control of the test above: a window of the last 20,000 calls, as others have, needs 10,000 failures.
#[test]
fn a_window_of_calls_would_take_as_many_failures_as_it_has_seen_successes() {
    let mut window = vec![false; 10_000];
    let mut failures = 0usize;
    while failures * 2 < window.len() {
        window.push(true);
        failures += 1;
    }
    assert_eq!(failures, 10_000);
}

#[test]
fn a_probe_that_never_comes_back_gives_its_place_up_and_decides_nothing_later() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    bed.now += 5 * SEC;
    let lost = bed.breaker.try_admit(bed.now).unwrap();
    bed.now += 30 * SEC - Duration::from_nanos(1);
    assert!(bed.breaker.try_admit(bed.now).is_err());
    assert!(!bed.breaker.would_admit(bed.now));
    bed.now += Duration::from_nanos(1);
    assert!(bed.breaker.would_admit(bed.now));
    let next = bed.breaker.try_admit(bed.now).unwrap();
    assert!(bed.breaker.try_admit(bed.now).is_err(), "one at a time");
    for outcome in [Outcome::Failure, Outcome::Success] {
        let late = Permit::of(lost.gate());
        assert_eq!(bed.breaker.record(late, outcome, bed.now, 0.0), None);
    }
    bed.breaker.release(lost);
    assert!(bed.breaker.try_admit(bed.now).is_err(), "still one");
    assert_eq!(
        bed.breaker.record(next, Outcome::Success, bed.now, 0.0),
        None
    );
    assert_eq!(bed.call(Outcome::Success), Some(State::Closed));
}

#[test]
fn only_the_first_probe_after_each_open_time_says_that_it_is_the_first() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    for _ in 0..3 {
        bed.now += 60 * SEC;
        let first = bed.breaker.try_admit(bed.now).unwrap();
        assert!(first.is_first_probe());
        bed.breaker.record(first, Outcome::Success, bed.now, 0.0);
        let second = bed.breaker.try_admit(bed.now).unwrap();
        assert!(second.is_probe() && !second.is_first_probe());
        bed.breaker.record(second, Outcome::Failure, bed.now, 0.0);
    }
}

#[test]
fn the_snapshot_says_why_it_opened_and_whether_it_was_forced() {
    let mut bed = Bed::new(Config::default());
    let why = |bed: &Bed| bed.breaker.snapshot(bed.now).tripped_by;
    assert_eq!(why(&bed), None);
    for _ in 0..5 {
        bed.call(Outcome::Failure);
    }
    assert_eq!(why(&bed), Some(Trip::ConsecutiveFailures));
    bed.now += 5 * SEC;
    bed.call(Outcome::Failure);
    assert_eq!(why(&bed), Some(Trip::Probe));
    bed.breaker.force_closed();
    assert!(bed.breaker.snapshot(bed.now).forced);
    bed.breaker.reset();
    assert!(!bed.breaker.snapshot(bed.now).forced);
    assert_eq!(why(&bed), None);

    let bed = Bed::new(by_ratio_only());
    for _ in 0..100 {
        bed.call(Outcome::Failure);
    }
    assert_eq!(why(&bed), Some(Trip::FailureRatio));
}
