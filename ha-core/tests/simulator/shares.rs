//! Weights become shares, and the same seed the same run.

use std::time::Duration;

use crate::client::{Settings, endpoints, weighted};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn run(policy: Policy, weights: &[u32], seed: u64) -> Report {
    let servers = vec![Server::new(Behaviour::Exponential(5 * MS)); weights.len()];
    let arrivals = Arrivals::Open(2_000.0);
    let settings = Settings {
        // With ten requests in flight the light one of unequal endpoints is at its bound most of the time.
        bound: 1_000.0,
        ..Settings::bare(policy)
    };
    World::new(settings, &weighted(weights), servers, arrivals, seed).run(10 * SEC)
}

#[test]
fn round_robin_random_rendezvous_and_maglev_follow_the_weights_within_two_percent() {
    let policies = [
        Policy::RoundRobin,
        Policy::Random,
        Policy::Rendezvous,
        Policy::Maglev,
    ];
    for policy in policies {
        for weights in [&[1, 1, 1, 1][..], &[1, 2, 3, 4], &[9, 1]] {
            let shares = run(policy, weights, 1).shares(0.0..10.0);
            let sum: u32 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(weights) {
                let expected = f64::from(*weight) / f64::from(sum);
                let close = (share - expected).abs() < 0.02;
                assert!(close, "{policy:?} {weights:?}: {shares:?}");
            }
        }
    }
}

#[test]
fn an_endpoint_of_weight_zero_gets_nothing_by_any_policy() {
    for policy in crate::table::POLICIES {
        let shares = run(policy, &[1, 0, 1], 2).shares(0.0..10.0);
        assert_eq!(shares[1], 0.0, "{policy:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    for policy in crate::table::POLICIES {
        let first = run(policy, &[1, 2, 3], 3).samples;
        assert!(first.len() > 10_000);
        assert!(first == run(policy, &[1, 2, 3], 3).samples, "{policy:?}");
        assert!(first != run(policy, &[1, 2, 3], 4).samples, "{policy:?}");
    }
}

#[test]
fn thousands_of_endpoints_and_requests_per_virtual_millisecond_are_no_trouble() {
    let servers = vec![Server::new(Behaviour::Constant(MS)); 2_000];
    let settings = Settings::full(Policy::PeakEwma);
    let arrivals = Arrivals::Open(2_000_000.0);
    let report = World::new(settings, &endpoints(2_000), servers, arrivals, 5).run(40 * MS);
    assert!(report.samples.len() > 70_000, "{}", report.samples.len());
    assert_eq!(report.failed_ratio(0.0..1.0), 0.0);
}
