//! What hash policies promise: a bound on the load of each endpoint, and keys that stay where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::endpoint::Endpoint;
use ha_core::hash::Bound;

use crate::client::{Settings, endpoints, weighted};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::Report;
use crate::server::{Behaviour, Server};

const MS: Duration = Duration::from_millis(1);
const POLICIES: [Policy; 3] = [Policy::Ring, Policy::Maglev, Policy::Rendezvous];

fn run(policy: Policy, endpoints: &[Endpoint], bound: f64) -> Report {
    let servers = vec![Server::new(Behaviour::Exponential(5 * MS)); endpoints.len()];
    let settings = Settings {
        bound,
        ..Settings::bare(policy)
    };
    let arrivals = Arrivals::Open(4_000.0);
    World::new(settings, endpoints, servers, arrivals, 11).run(10_000 * MS)
}

/// How many requests went to an endpoint that had more than `factor` times its share of all that were in flight.
fn beyond(report: &Report, weights: &[u32], factor: f64) -> usize {
    let sum: u32 = weights.iter().sum();
    let is_beyond = |(server, (there, all)): (usize, (u32, u32))| {
        let share = f64::from(all) * f64::from(weights[server]) / f64::from(sum);
        f64::from(there) > (factor * share).ceil()
    };
    let sent = report.samples.iter();
    sent.filter_map(|sample| Some((sample.server?, sample.in_flight)))
        .filter(|sent| is_beyond(*sent))
        .count()
}

#[test]
fn no_endpoint_ever_has_more_than_its_bounded_share_and_without_the_bound_many_do() {
    for policy in POLICIES {
        for weights in [&[1, 1, 1, 1][..], &[1, 2, 3, 4], &[9, 1]] {
            let factor = Bound::DEFAULT_FACTOR;
            let bounded = run(policy, &weighted(weights), factor);
            assert!(bounded.samples.len() > 30_000);
            assert_eq!(
                beyond(&bounded, weights, factor),
                0,
                "{policy:?} {weights:?}"
            );
            let unbounded = run(policy, &weighted(weights), 1_000.0);
            let beyond = beyond(&unbounded, weights, factor);
            assert!(beyond > 500, "{policy:?} {weights:?}: {beyond}");
        }
    }
}

/// Where each key goes.
fn places(report: &Report) -> BTreeMap<u64, usize> {
    let mut places = BTreeMap::new();
    for sample in &report.samples {
        let server = sample.server.unwrap();
        let before = places.insert(sample.hash, server);
        assert!(
            before.is_none_or(|before| before == server),
            "{}",
            sample.hash
        );
    }
    places
}

#[test]
fn when_an_endpoint_leaves_its_keys_move_and_hardly_any_other() {
    const N: usize = 10;
    for policy in POLICIES {
        let all = places(&run(policy, &endpoints(N), 1_000.0));
        let fewer = places(&run(policy, &endpoints(N - 1), 1_000.0));
        let both: Vec<_> = all
            .iter()
            .filter_map(|(key, place)| Some((*place, *fewer.get(key)?)))
            .collect();
        assert!(both.len() > 9_000, "{}", both.len());
        let stayed = both.iter().filter(|(before, _)| *before != N - 1);
        let moved = stayed.clone().filter(|(before, after)| before != after);
        let (stayed, moved) = (stayed.count(), moved.count());
        let allowed = match policy {
            // Its table is filled anew; the paper measures a few percent.
            Policy::Maglev => stayed / 20,
            _ => 0,
        };
        assert!(moved <= allowed, "{policy:?}: {moved} of {stayed}");
        // A modulus moves nine of ten.
        let naive = all.keys().filter(|key| *key % 10 != *key % 9).count();
        assert!(naive > all.len() / 2);
    }
}
