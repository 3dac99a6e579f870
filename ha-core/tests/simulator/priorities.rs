//! Spilling to the next priority or region, and panic.

use std::time::Duration;

use ha_core::endpoint::Endpoint;

use crate::client::{Settings, endpoints};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn run(settings: Settings, endpoints: &[Endpoint], odd: usize, behaviour: Behaviour) -> Report {
    let mut servers = vec![Server::new(Behaviour::Exponential(5 * MS)); endpoints.len()];
    for server in &mut servers[..odd] {
        *server = Server::new(behaviour);
    }
    World::new(settings, endpoints, servers, Arrivals::Open(2_000.0), 31).run(30 * SEC)
}

fn two_priorities() -> Vec<Endpoint> {
    let mut endpoints = endpoints(20);
    endpoints[10..].iter_mut().for_each(|e| e.priority = 1);
    endpoints
}

#[test]
fn what_a_priority_cannot_take_spills_to_the_next_within_two_percent() {
    for policy in [Policy::RoundRobin, Policy::Random, Policy::PeakEwma] {
        for (dead, first) in [(0, 1.0), (2, 1.0), (5, 0.7), (8, 0.28), (10, 0.0)] {
            let report = run(
                Settings::full(policy),
                &two_priorities(),
                dead,
                Behaviour::Refuses,
            );
            let share: f64 = report.shares(15.0..30.0)[..10].iter().sum();
            let close = (share - first).abs() < 0.02;
            assert!(close, "{policy:?}, {dead} dead: {share} instead of {first}");
        }
    }
}

#[test]
fn a_region_that_loses_capacity_hands_the_rest_to_the_next() {
    let mut settings = Settings::full(Policy::Random);
    settings.spread.local.region = "eu".into();
    settings.spread.next_regions = vec!["uk".into()];
    let mut endpoints = endpoints(12);
    for (i, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.locality.region = ["eu", "uk", "us"][i / 4].into();
    }
    let shares = run(settings, &endpoints, 2, Behaviour::Refuses).shares(15.0..30.0);
    let regions: Vec<f64> = shares.chunks(4).map(|region| region.iter().sum()).collect();
    for (share, expected) in regions.iter().zip([0.7, 0.3, 0.0]) {
        assert!((share - expected).abs() < 0.02, "{regions:?}");
    }
}

#[test]
fn in_panic_all_that_pass_their_checks_share_alike() {
    let settings = Settings::full(Policy::RoundRobin);
    let report = run(settings, &endpoints(10), 7, Behaviour::Fails(MS));
    for share in report.shares(10.0..30.0) {
        assert!((share - 0.1).abs() < 0.02, "{share}");
    }
}

#[test]
fn two_of_three_that_fail_their_checks_get_nothing() {
    let settings = Settings::full(Policy::RoundRobin);
    let report = run(settings, &endpoints(3), 2, Behaviour::Refuses);
    assert_eq!(report.shares(10.0..30.0), [0.0, 0.0, 1.0]);
    assert_eq!(report.failed_ratio(10.0..30.0), 0.0);
}

#[test]
fn the_negative_control_that_takes_dead_endpoints_for_suspects_sends_them_most_picks() {
    let settings = Settings {
        checks: None,
        ..Settings::full(Policy::RoundRobin)
    };
    let report = run(settings, &endpoints(3), 2, Behaviour::Refuses);
    assert!(report.failed_ratio(10.0..30.0) > 0.3);
}
