//! Who is ejected.

use super::bed::*;
use super::*;

#[test]
fn runs_of_failures_eject_at_once_and_ask_for_one_sweep() {
    use Outcome::{ConnectFailure, Failure};
    for (outcomes, cause) in [
        (&[Failure; 5][..], Some(Cause::ConsecutiveFailures)),
        (&[Failure; 4], None),
        (
            &[ConnectFailure; 3],
            Some(Cause::ConsecutiveConnectFailures),
        ),
        (&[ConnectFailure; 2], None),
        (
            &[Failure, ConnectFailure, Failure, ConnectFailure, Failure],
            Some(Cause::ConsecutiveFailures),
        ),
        (
            &[ConnectFailure, ConnectFailure, Failure, ConnectFailure],
            None,
        ),
        (
            &[
                Failure,
                Failure,
                Outcome::Success,
                Failure,
                Failure,
                Failure,
            ],
            None,
        ),
    ] {
        let mut bed = Bed::new(3);
        let asked = outcomes.iter().filter(|o| bed.hosts[1].record(**o)).count();
        let sweep = bed.at(0);
        assert_eq!(asked, usize::from(cause.is_some()), "{outcomes:?}");
        let expected = cause.map(|cause| (key(1), cause, 1));
        assert_eq!(ejection(&sweep), expected, "{outcomes:?}");
    }
}

#[test]
fn a_success_between_the_last_failure_and_the_sweep_does_not_undo_it() {
    let mut bed = Bed::new(3);
    assert_eq!(bed.record(0, Outcome::Failure, 5), 1);
    assert_eq!(bed.record(0, Outcome::Success, 1), 0);
    assert!(ejection(&bed.at(0)).is_some());
}

#[test]
fn the_success_rate_is_compared_only_among_enough_busy_endpoints_and_at_the_interval() {
    for (hosts, requests, seconds, ejects) in [
        (5, 100, 10, true),
        (4, 100, 10, false),
        (5, 99, 10, false),
        (5, 100, 9, false),
    ] {
        let mut bed = Bed::with(hosts, only_intervals());
        for i in 1..hosts {
            bed.requests(i, requests, 0);
        }
        bed.requests(0, requests, 30);
        let found = ejection(&bed.at(seconds));
        let expected = ejects.then(|| (key(0), Cause::SuccessRate, 1));
        assert_eq!(
            found, expected,
            "{hosts} hosts, {requests} requests, {seconds} s"
        );
    }
}

#[test]
fn one_failure_in_a_hundred_is_no_outlier_and_without_the_gap_it_would_be() {
    for (gap, ejects) in [(0.05, false), (0.0, true)] {
        let mut config = only_intervals();
        config.success_rate.as_mut().unwrap().minimum_gap_ratio = gap;
        let mut bed = Bed::with(10, config);
        for i in 1..10 {
            bed.requests(i, 100, 0);
        }
        bed.requests(0, 100, 1);
        assert_eq!(ejection(&bed.at(10)).is_some(), ejects, "gap {gap}");
    }
}

#[test]
fn when_all_fail_alike_nobody_is_an_outlier_by_success_rate() {
    let mut bed = Bed::with(10, only_intervals());
    for i in 0..10 {
        bed.requests(i, 1000, 500);
    }
    assert!(bed.at(10).changes.is_empty());
}

#[test]
fn the_failure_ratio_ejects_at_85_percent_of_50_requests() {
    for (requests, failures, ejects) in [(60, 51, true), (60, 50, false), (49, 49, false)] {
        let mut config = only_intervals();
        config.success_rate = None;
        let mut bed = Bed::with(5, config);
        for i in 1..5 {
            bed.requests(i, 50, 0);
        }
        bed.requests(0, requests, failures);
        let found = ejection(&bed.at(10));
        let expected = ejects.then(|| (key(0), Cause::FailureRatio, 1));
        assert_eq!(found, expected, "{failures} of {requests}");
    }
}

#[test]
fn a_detector_that_is_off_ejects_nobody() {
    let mut config = only_intervals();
    config.success_rate = None;
    config.failure = None;
    let mut bed = Bed::with(10, config);
    for i in 1..10 {
        bed.requests(i, 1000, 0);
    }
    assert_eq!(bed.record(0, Outcome::ConnectFailure, 1000), 0);
    assert!(bed.at(10).changes.is_empty());
}
