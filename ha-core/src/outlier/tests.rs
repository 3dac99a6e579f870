use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::endpoint::EndpointKey;

fn key(i: usize) -> EndpointKey {
    EndpointKey::new(format!("{i:03}"))
}

#[cfg(not(ha_loom))]
mod plain {
    use super::*;
    use crate::health::State::{Failing, Passing, Unchecked};
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);

    struct Bed {
        outliers: Outliers,
        hosts: Vec<Arc<Counters>>,
        start: Instant,
    }

    impl Bed {
        fn new(n: usize) -> Self {
            Self::with(n, Config::default())
        }

        fn with(n: usize, config: Config) -> Self {
            let start = Instant::now();
            let hosts: Vec<_> = (0..n).map(|_| Arc::new(Counters::new(&config))).collect();
            let mut bed = Self {
                outliers: Outliers::new(config, start).unwrap(),
                hosts,
                start,
            };
            bed.watch(n);
            bed
        }

        fn watch(&mut self, n: usize) {
            let hosts = self.hosts.iter().take(n).enumerate();
            self.outliers
                .update(hosts.map(|(i, c)| (key(i), c.clone())));
        }

        fn record(&self, i: usize, outcome: Outcome, times: u32) -> usize {
            (0..times).filter(|_| self.hosts[i].record(outcome)).count()
        }

        /// Failures spread among successes, so that no run is completed.
        fn requests(&self, i: usize, requests: u32, failures: u32) {
            let (mut failed, mut succeeded) = (0, 0);
            for n in 1..=requests {
                let due = u64::from(n) * u64::from(failures) / u64::from(requests);
                if failed < due {
                    failed += 1;
                    let _ = self.hosts[i].record(Outcome::Failure);
                } else {
                    succeeded += 1;
                    let _ = self.hosts[i].record(Outcome::Success);
                }
            }
            assert_eq!(failed + succeeded, u64::from(requests));
        }

        fn at(&mut self, seconds: u64) -> Sweep {
            self.outliers.sweep(self.start + SEC * seconds as u32)
        }

        fn ejected(&self) -> Vec<usize> {
            let hosts = self.hosts.iter().enumerate();
            hosts
                .filter(|(_, c)| c.is_ejected())
                .map(|(i, _)| i)
                .collect()
        }
    }

    fn only_intervals() -> Config {
        Config {
            consecutive_failures: None,
            consecutive_connect_failures: None,
            ..Config::default()
        }
    }

    fn ejection(sweep: &Sweep) -> Option<(EndpointKey, Cause, u32)> {
        match sweep.changes.as_slice() {
            [
                Change::Ejected {
                    key, cause, times, ..
                },
            ] => Some((key.clone(), *cause, *times)),
            _ => None,
        }
    }

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

    #[test]
    fn senseless_numbers_are_refused_by_name_and_value() {
        type Spoil = fn(&mut Config);
        let cases: [(Spoil, &str); 16] = [
            (|c| c.interval = Duration::ZERO, "outlier.interval is 0ns"),
            (|c| c.interval = 3601 * SEC, "outlier.interval is 3601s"),
            (
                |c| c.consecutive_failures = Some(0),
                "outlier.consecutive_failures is 0",
            ),
            (
                |c| c.consecutive_connect_failures = Some(0),
                "outlier.consecutive_connect_failures is 0",
            ),
            (
                |c| rate(c).deviations = f64::NAN,
                "outlier.success_rate.deviations is NaN",
            ),
            (
                |c| rate(c).deviations = 0.0,
                "outlier.success_rate.deviations is 0",
            ),
            (
                |c| rate(c).minimum_gap_ratio = 1.0,
                "outlier.success_rate.minimum_gap_ratio is 1",
            ),
            (
                |c| rate(c).minimum_hosts = 0,
                "outlier.success_rate.minimum_hosts is 0",
            ),
            (
                |c| rate(c).minimum_requests = 0,
                "outlier.success_rate.minimum_requests is 0",
            ),
            (
                |c| failure(c).failure_ratio = 0.0,
                "outlier.failure.failure_ratio is 0",
            ),
            (
                |c| failure(c).failure_ratio = 85.0,
                "outlier.failure.failure_ratio is 85",
            ),
            (
                |c| failure(c).minimum_hosts = 0,
                "outlier.failure.minimum_hosts is 0",
            ),
            (
                |c| failure(c).minimum_requests = 0,
                "outlier.failure.minimum_requests is 0",
            ),
            (
                |c| c.base_ejection = Duration::ZERO,
                "outlier.base_ejection is 0ns",
            ),
            (|c| c.max_ejection = SEC, "outlier.max_ejection is 1s"),
            (
                |c| c.max_ejected_ratio = f64::NAN,
                "outlier.max_ejected_ratio is NaN",
            ),
        ];
        for (spoil, text) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            let error = Outliers::new(config, Instant::now())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(text), "{text}: {error}");
        }
    }

    fn rate(config: &mut Config) -> &mut SuccessRate {
        config.success_rate.as_mut().unwrap()
    }

    fn failure(config: &mut Config) -> &mut Failure {
        config.failure.as_mut().unwrap()
    }

    #[test]
    fn no_request_is_lost_or_counted_twice_while_windows_are_taken() {
        const EACH: u64 = 200_000;
        let counters = Arc::new(Counters::new(&Config::default()));
        let threads: Vec<_> = (0..3)
            .map(|t| {
                let counters = counters.clone();
                std::thread::spawn(move || {
                    for i in 0..EACH {
                        let failed = (i + t) % 4 == 0;
                        let outcome = if failed {
                            Outcome::Failure
                        } else {
                            Outcome::Success
                        };
                        let _ = counters.record(outcome);
                    }
                })
            })
            .collect();
        let (mut requests, mut failures) = (0, 0);
        let mut take = || {
            let window = counters.take_window();
            assert!(window.failures <= window.requests);
            requests += u64::from(window.requests);
            failures += u64::from(window.failures);
        };
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            take();
        }
        take();
        assert_eq!((requests, failures), (3 * EACH, 3 * EACH / 4));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Record(usize, bool, u32),
        Sweep(u64),
        Check(usize),
        Watch(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0usize..40, any::<bool>(), 1u32..200).prop_map(|(i, ok, n)| Step::Record(i, ok, n)),
            (0u64..60_000).prop_map(Step::Sweep),
            (0usize..40).prop_map(Step::Check),
            (1usize..40).prop_map(Step::Watch),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_cap_holds_the_flags_agree_and_no_sweep_asks_for_the_past(
            steps in steps(),
        ) {
            let mut bed = Bed::new(40);
            let (mut now, mut watched) = (bed.start, 40);
            for step in steps {
                match step {
                    Step::Record(i, ok, n) => {
                        let outcome = if ok { Outcome::Success } else { Outcome::Failure };
                        bed.record(i, outcome, n);
                    }
                    Step::Check(i) => {
                        bed.outliers.check_changed(&key(i), Failing, Passing);
                    }
                    Step::Watch(n) => {
                        watched = n;
                        bed.hosts.iter_mut().skip(n).for_each(|gone| {
                            *gone = Arc::new(Counters::new(&Config::default()));
                        });
                        bed.watch(n);
                    }
                    Step::Sweep(millis) => {
                        now += Duration::from_millis(millis);
                        let sweep = bed.outliers.sweep(now);
                        prop_assert!(sweep.next > now);
                        prop_assert!(sweep.next <= now + 300 * SEC);
                        for change in &sweep.changes {
                            if let Change::Ejected { until, times, .. } = change {
                                prop_assert!((1..=10).contains(times));
                                prop_assert_eq!(*until, now + 30 * SEC * *times);
                            }
                        }
                        let most = if watched < 2 { 0 } else { (watched / 10).max(1) };
                        prop_assert!(bed.outliers.ejected() <= most);
                        prop_assert_eq!(bed.ejected().len(), bed.outliers.ejected());
                        prop_assert!(bed.outliers.sweep(now).changes.is_empty(), "again is nothing");
                    }
                }
            }
        }
    }
}

/// `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib outlier::tests::loom`
#[cfg(ha_loom)]
mod loom {
    use super::*;
    use ::loom::thread;

    #[test]
    fn a_window_taken_between_two_records_loses_none_and_counts_none_twice() {
        ::loom::model(|| {
            let counters = ::loom::sync::Arc::new(Counters::new(&Config::default()));
            let other = {
                let counters = counters.clone();
                thread::spawn(move || {
                    let _ = counters.record(Outcome::Failure);
                    let _ = counters.record(Outcome::Success);
                })
            };
            let first = counters.take_window();
            other.join().unwrap();
            let second = counters.take_window();
            assert_eq!(first.requests + second.requests, 2);
            assert_eq!(first.failures + second.failures, 1);
        });
    }

    #[test]
    fn of_two_threads_that_complete_a_run_one_asks_for_the_sweep() {
        ::loom::model(|| {
            let config = Config {
                consecutive_failures: Some(2),
                ..Config::default()
            };
            let counters = ::loom::sync::Arc::new(Counters::new(&config));
            let other = {
                let counters = counters.clone();
                thread::spawn(move || counters.record(Outcome::Failure))
            };
            let mine = counters.record(Outcome::Failure);
            let theirs = other.join().unwrap();
            assert!(mine ^ theirs);
            assert_eq!(counters.take_trip(), Some(Cause::ConsecutiveFailures));
        });
    }

    #[test]
    fn an_ejected_endpoint_that_returns_asks_again() {
        let now = Instant::now();
        ::loom::model(move || {
            let config = Config {
                consecutive_failures: Some(1),
                ..Config::default()
            };
            let hosts: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(&config))).collect();
            let mut outliers = Outliers::new(config, now).unwrap();
            outliers.update(hosts.iter().enumerate().map(|(i, c)| (key(i), c.clone())));
            assert!(hosts[0].record(Outcome::Failure));
            outliers.sweep(now);
            outliers.sweep(now + Duration::from_secs(30));
            assert!(hosts[0].record(Outcome::Failure));
        });
    }
}
