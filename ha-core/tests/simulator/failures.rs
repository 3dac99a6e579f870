//! Failures do not attract traffic, and one that recovers gets its share back.

use std::time::Duration;

use crate::client::{Settings, endpoints};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn fast_failure(settings: Settings) -> Report {
    let mut servers = vec![Server::new(Behaviour::Exponential(10 * MS)); 3];
    servers[0] = Server::new(Behaviour::Fails(MS / 5));
    World::new(settings, &endpoints(3), servers, Arrivals::Closed(32), 11).run(20 * SEC)
}

#[test]
fn an_endpoint_that_fails_fast_does_not_attract_traffic() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let share = fast_failure(Settings::bare(policy)).shares(1.0..20.0)[0];
        assert!(share < 0.02, "{policy:?}: {share}");
    }
}

#[test]
fn the_negative_control_without_a_penalty_sends_most_requests_into_the_failure() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let mut settings = Settings::bare(policy);
        settings.load.penalty = Duration::from_nanos(1);
        let share = fast_failure(settings).shares(1.0..20.0)[0];
        assert!(share > 0.45, "{policy:?}: {share}");
    }
}

/// Ten endpoints, of which the first does something else from second 20 to second 40.
fn episode(settings: Settings, behaviour: Behaviour) -> Report {
    let well = Behaviour::Exponential(5 * MS);
    let mut servers = vec![Server::new(well); 10];
    servers[0] = Server::new(well)
        .then(20 * SEC, behaviour)
        .then(40 * SEC, well);
    let arrivals = Arrivals::Open(1_000.0);
    World::new(settings, &endpoints(10), servers, arrivals, 12).run(80 * SEC)
}

#[test]
fn an_endpoint_that_was_down_gets_its_share_back_within_15_seconds() {
    for policy in crate::table::POLICIES {
        for behaviour in [Behaviour::Refuses, Behaviour::Freezes] {
            let report = episode(Settings::full(policy), behaviour);
            let down = report.shares(30.0..40.0)[0];
            let back = report.shares(55.0..60.0)[0];
            let before = report.shares(10.0..20.0)[0];
            assert!(down < 0.01, "{policy:?} {behaviour:?}: {down} while down");
            assert!(
                back > before - 0.02,
                "{policy:?} {behaviour:?}: {back} after {before}"
            );
        }
    }
}

#[test]
fn an_outage_costs_no_more_requests_than_it_takes_to_notice() {
    for policy in crate::table::POLICIES {
        let failed =
            |behaviour| episode(Settings::full(policy), behaviour).failed_ratio(20.0..40.0);
        let refused = failed(Behaviour::Refuses);
        assert!(refused < 0.001, "{policy:?}: {refused}");
        // What comes before the first timeout is over cannot know.
        let frozen = failed(Behaviour::Freezes);
        assert!(frozen < 0.01, "{policy:?}: {frozen}");
    }
}

#[test]
fn one_that_was_a_hundred_times_slower_is_avoided_and_back_within_15_seconds() {
    let settings = Settings::full(Policy::PeakEwma);
    let report = episode(settings, Behaviour::Exponential(500 * MS));
    let slow = report.shares(25.0..40.0)[0];
    assert!(slow < 0.01, "{slow} while slow");
    let back = report.shares(55.0..60.0)[0];
    assert!(back > 0.08, "{back} of 0.1 after");
}
