//! How many are ejected, for how long, and what ends it.

use super::bed::*;
use super::*;
use crate::health::State::{Failing, Passing, Unchecked};

#[test]
fn the_worst_go_first_when_the_cap_spares_some() {
    let mut config = only_intervals();
    config.success_rate = None;
    let mut bed = Bed::with(10, config);
    for (i, failures) in [(2, 90), (5, 100), (7, 95)] {
        bed.requests(i, 100, failures);
    }
    for i in [0, 1, 3, 4, 6, 8, 9] {
        bed.requests(i, 100, 0);
    }
    let sweep = bed.at(10);
    assert_eq!(bed.ejected(), [5]);
    assert_eq!(sweep.spared, 2);
}

#[test]
fn at_most_a_tenth_is_ejected_but_one_of_two_may_be_and_never_the_only_one() {
    for (hosts, most) in [(1, 0), (2, 1), (9, 1), (19, 1), (20, 2), (30, 3), (100, 10)] {
        let mut bed = Bed::new(hosts);
        for i in 0..hosts {
            assert_eq!(bed.record(i, Outcome::Failure, 5), 1);
        }
        let sweep = bed.at(0);
        assert_eq!(bed.ejected().len(), most, "{hosts} hosts");
        assert_eq!(sweep.spared, hosts - most, "{hosts} hosts");
    }
}

#[test]
fn a_run_that_the_cap_spared_ejects_when_there_is_room_unless_it_has_ended() {
    let mut bed = Bed::new(3);
    for i in 0..3 {
        bed.record(i, Outcome::Failure, 5);
    }
    bed.at(0);
    assert_eq!(bed.ejected(), [0]);
    bed.record(1, Outcome::Success, 1);
    bed.at(30);
    assert_eq!(bed.ejected(), [2]);
}

#[test]
fn ejections_grow_by_the_base_up_to_the_most_and_shrink_by_one_per_clean_interval() {
    let mut bed = Bed::new(3);
    let mut at = 0;
    let eject = |bed: &mut Bed, at: &mut u64| {
        bed.record(0, Outcome::Failure, 5);
        let sweep = bed.at(*at);
        let Some(Change::Ejected { until, .. }) = sweep.changes.last() else {
            panic!("not ejected at {at}: {sweep:?}");
        };
        let length = until.duration_since(bed.start).as_secs() - *at;
        *at += length;
        bed.at(*at);
        assert!(bed.ejected().is_empty());
        length
    };
    let lengths: Vec<u64> = (0..12).map(|_| eject(&mut bed, &mut at)).collect();
    let expected = [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300];
    assert_eq!(lengths, expected);
    // Each of these takes one off ten; the one that ended as it came back did not.
    for _ in 0..5 {
        at += 10;
        bed.at(at);
    }
    assert_eq!(eject(&mut bed, &mut at), 180);
}

#[test]
fn a_check_that_goes_from_failing_to_passing_ends_the_ejection_and_no_other_does() {
    let mut bed = Bed::new(3);
    bed.record(0, Outcome::Failure, 5);
    bed.at(0);
    for (from, to) in [(Passing, Passing), (Unchecked, Passing), (Passing, Failing)] {
        assert_eq!(bed.outliers.check_changed(&key(0), from, to), None);
        assert_eq!(bed.ejected(), [0], "{from:?} {to:?}");
    }
    assert_eq!(bed.outliers.check_changed(&key(1), Failing, Passing), None);
    assert_eq!(
        bed.outliers.check_changed(&key(0), Failing, Passing),
        Some(Change::Returned {
            key: key(0),
            cause: ReturnCause::Check
        })
    );
    assert!(bed.ejected().is_empty());
    assert!(bed.at(30).changes.is_empty(), "it does not come back twice");
}

#[test]
fn one_that_the_cap_spared_is_not_ejected_for_old_failures_when_its_check_passes_again() {
    for checked in [true, false] {
        let mut bed = Bed::new(3);
        for i in 0..2 {
            bed.record(i, Outcome::ConnectFailure, 5);
        }
        bed.at(0);
        assert_eq!(bed.ejected(), [0]);
        // Both are started again.
        if checked {
            assert_eq!(bed.outliers.check_changed(&key(1), Failing, Passing), None);
        }
        bed.outliers.check_changed(&key(0), Failing, Passing);
        bed.at(10);
        let control: &[usize] = if checked { &[] } else { &[1] };
        assert_eq!(bed.ejected(), control);
    }
}

#[test]
fn what_was_counted_before_and_during_an_ejection_is_forgotten() {
    let mut bed = Bed::new(3);
    bed.record(0, Outcome::Failure, 5);
    bed.at(0);
    assert_eq!(
        bed.record(0, Outcome::Failure, 100),
        0,
        "ejected, it asks for nothing"
    );
    bed.at(30);
    assert_eq!(bed.record(0, Outcome::Failure, 4), 0);
    assert!(bed.at(31).changes.is_empty());
    assert_eq!(bed.record(0, Outcome::Failure, 1), 1);
}

#[test]
fn an_endpoint_known_before_keeps_its_ejection_and_one_that_left_does_not() {
    let mut bed = Bed::new(30);
    for i in [0, 1, 29] {
        bed.record(i, Outcome::Failure, 5);
    }
    bed.at(0);
    bed.watch(20);
    assert_eq!(bed.outliers.ejected(), 2);
    bed.hosts[0] = Arc::new(Counters::new(&Config::default()));
    bed.watch(20);
    assert_eq!(
        bed.outliers.ejected(),
        1,
        "other counters are another endpoint"
    );
}

#[test]
fn a_set_that_shrinks_gets_back_those_beyond_the_cap_soonest_due_first() {
    let mut bed = Bed::new(30);
    for i in 0..3 {
        bed.record(i, Outcome::Failure, 5);
        bed.at(i as u64);
    }
    bed.watch(10);
    let sweep = bed.at(3);
    assert_eq!(bed.ejected(), [2]);
    let returned = |i| Change::Returned {
        key: key(i),
        cause: ReturnCause::Cap,
    };
    assert_eq!(sweep.changes, [returned(0), returned(1)]);
}

#[test]
fn a_task_that_sleeps_until_next_wakes_once_per_interval_and_once_per_return() {
    let mut bed = Bed::new(3);
    let hour = bed.start + 3600 * SEC;
    bed.outliers.sweep(bed.start + SEC);
    bed.record(0, Outcome::Failure, 5);
    let mut now = bed.start + 3 * SEC;
    let (mut wakes, mut changes) = (0, 0);
    while now < hour {
        let sweep = bed.outliers.sweep(now);
        assert!(sweep.next > now);
        wakes += 1;
        changes += sweep.changes.len();
        now = sweep.next;
    }
    assert_eq!(changes, 2, "out and back");
    // The sweep that ejected, one per interval, and one when the 30 s were over.
    assert_eq!(wakes, 1 + 359 + 1);
}
