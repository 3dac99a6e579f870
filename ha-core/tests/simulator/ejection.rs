//! Outliers are found by what requests say, stay out while their checks pass, and do not come back all the time.

use std::time::Duration;

use ha_core::outlier::{Cause, Change};

use crate::client::{Settings, endpoints};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn run(settings: Settings, odd: &[usize], behaviour: Behaviour, end: Duration) -> Report {
    let mut servers = vec![Server::new(Behaviour::Exponential(5 * MS)); 10];
    for i in odd {
        servers[*i] = Server::new(behaviour);
    }
    World::new(settings, &endpoints(10), servers, Arrivals::Open(500.0), 21).run(end)
}

fn only_outlier(policy: Policy) -> Settings {
    Settings {
        breaker: None,
        ..Settings::full(policy)
    }
}

#[test]
fn one_that_fails_a_third_of_its_requests_is_out_after_one_interval_and_longer_each_time() {
    let mut settings = only_outlier(Policy::RoundRobin);
    // Of a thousand requests, two complete a run of five by chance.
    settings.outlier.as_mut().unwrap().consecutive_failures = None;
    let report = run(settings, &[3], Behaviour::Flaky(0.3, 5 * MS), 200 * SEC);
    let lengths: Vec<u64> = report
        .ejections
        .iter()
        .filter_map(|(at, change)| match change {
            Change::Ejected { cause, times, .. } => {
                assert_eq!(*cause, Cause::SuccessRate, "at {at:?}");
                Some(u64::from(*times))
            }
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [1, 2, 3]);
    assert_eq!(
        report.shares(10.0..40.0)[3],
        0.0,
        "ejected at 10 s for 30 s"
    );
    assert!(report.shares(0.0..10.0)[3] > 0.08);
}

#[test]
fn checks_that_pass_all_the_time_do_not_end_an_ejection() {
    let settings = only_outlier(Policy::RoundRobin);
    let report = run(settings, &[3], Behaviour::Fails(MS), 29 * SEC);
    assert_eq!(report.ejections.len(), 1);
    assert_eq!(report.shares(1.0..29.0)[3], 0.0);
}

#[test]
fn when_all_fail_alike_nobody_is_ejected_by_comparison() {
    let mut settings = only_outlier(Policy::RoundRobin);
    let outlier = settings.outlier.as_mut().unwrap();
    outlier.consecutive_failures = None;
    let all: Vec<usize> = (0..10).collect();
    let report = run(settings, &all, Behaviour::Flaky(0.01, 5 * MS), 300 * SEC);
    assert!(report.ejections.is_empty(), "{:?}", report.ejections);
}

#[test]
fn the_negative_control_by_deviation_alone_ejects_healthy_endpoints_all_the_time() {
    let mut settings = only_outlier(Policy::RoundRobin);
    let outlier = settings.outlier.as_mut().unwrap();
    outlier.consecutive_failures = None;
    outlier.success_rate.as_mut().unwrap().minimum_gap_ratio = 0.0;
    let all: Vec<usize> = (0..10).collect();
    let report = run(settings, &all, Behaviour::Flaky(0.01, 5 * MS), 300 * SEC);
    assert!(report.ejections.len() > 4, "{:?}", report.ejections.len());
}

#[test]
fn when_most_fail_only_a_tenth_is_ejected() {
    let settings = only_outlier(Policy::RoundRobin);
    let report = run(settings, &[0, 1, 2, 3, 4, 5], Behaviour::Fails(MS), 9 * SEC);
    assert_eq!(report.ejections.len(), 1);
}

#[test]
fn an_ejection_costs_one_wake_and_its_end_another() {
    let settings = only_outlier(Policy::RoundRobin);
    let quiet = run(settings.clone(), &[], Behaviour::Freezes, 45 * SEC);
    let one = run(settings, &[3], Behaviour::Fails(MS), 25 * SEC);
    assert_eq!(quiet.sweeps, 1 + 4, "the first, and one per interval");
    assert_eq!(one.sweeps, 1 + 1 + 2, "and the one that ejected");
}
