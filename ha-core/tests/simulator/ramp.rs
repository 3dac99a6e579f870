//! A new endpoint takes its share little by little.

use std::time::Duration;

use ha_core::slow_start;

use crate::client::{Settings, endpoints};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// Four endpoints, of which the first is new at second 10.
fn run(policy: Policy, slow_start: Option<slow_start::Config>) -> Report {
    let settings = Settings {
        slow_start,
        ..Settings::bare(policy)
    };
    let servers = vec![Server::new(Behaviour::Exponential(5 * MS)); 4];
    let mut world = World::new(
        settings,
        &endpoints(4),
        servers,
        Arrivals::Open(2_000.0),
        41,
    );
    world.run_until(10 * SEC);
    let now = world.instant(10 * SEC);
    world.client().begin_new(0, now);
    world.run(50 * SEC)
}

#[test]
fn the_share_of_a_new_endpoint_follows_the_ramp_within_two_percent() {
    for policy in [Policy::RoundRobin, Policy::Random] {
        let report = run(policy, Some(slow_start::Config::default()));
        for (from, to, factor) in [
            (10.0, 13.0, 0.1),
            (18.0, 20.0, 0.3),
            (24.0, 26.0, 0.5),
            (33.0, 35.0, 0.8),
            (40.0, 50.0, 1.0),
        ] {
            let share = report.shares(from..to)[0];
            let expected = factor / (3.0 + factor);
            let close = (share - expected).abs() < 0.02;
            assert!(close, "{policy:?} {from}: {share} instead of {expected}");
        }
    }
}

#[test]
fn of_two_choices_one_that_ramps_gets_at_most_twice_its_part_and_then_its_share() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let report = run(policy, Some(slow_start::Config::default()));
        let first = report.shares(10.0..13.0)[0];
        assert!(
            first > 0.005 && first < 2.0 * 0.1 / 4.0 + 0.02,
            "{policy:?}: {first}"
        );
        let full = report.shares(40.0..50.0)[0];
        assert!((full - 0.25).abs() < 0.04, "{policy:?}: {full}");
    }
}

#[test]
fn the_negative_control_without_a_ramp_sends_a_full_share_at_once() {
    for policy in [Policy::RoundRobin, Policy::Random] {
        let share = run(policy, None).shares(10.0..11.0)[0];
        assert!(share > 0.22, "{policy:?}: {share}");
    }
}
