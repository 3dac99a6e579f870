//! What an overload does to a server with and without a limit before it.

use std::time::Duration;

use super::super::*;
use super::MS;
use super::simulation::{Guard, Load, run};

fn guarded(algorithm: impl Into<Algorithm>) -> Guard {
    Guard {
        adaptive: Some(AdaptiveConfig {
            algorithm: algorithm.into(),
            ..AdaptiveConfig::default()
        }),
        queue: Some(QueueConfig::default()),
        ..Guard::default()
    }
}

fn both() -> [Algorithm; 2] {
    [Gradient2::default().into(), Vegas::default().into()]
}

#[test]
fn at_four_times_its_capacity_a_server_keeps_its_throughput_its_latency_and_what_is_critical() {
    for algorithm in both() {
        // Work that always takes equally long is done in batches, which is the hardest for the tail.
        for (workers, spread, seed) in [(16, 0.2, 1), (16, 0.05, 2), (40, 0.2, 3)] {
            let load = Load {
                workers,
                spread: Some(spread),
                seed,
                ..Load::default()
            };
            let idle = Load {
                factor: 0.5,
                ..load.clone()
            };
            let mut calm = run(&guarded(algorithm), &idle);
            let mut report = run(&guarded(algorithm), &load);
            let case = format!("{algorithm:?} {load:?} {:?}", report.limits);
            let good = report.of_peak(&load);
            assert!(good >= 0.9, "{good} {case}");
            let critical = report.served(Priority::Critical);
            assert!(critical >= 0.99, "{critical} {case}");
            let (before, now) = (calm.p99(), report.p99());
            assert!(now <= before * 2, "{before:?} {now:?} {case}");
            assert!(report.served(Priority::Sheddable) < 0.1, "{case}");
        }
    }
}

#[test]
fn without_a_limit_the_same_overload_leaves_nothing() {
    let load = Load::default();
    let report = run(&Guard::default(), &load);
    assert!(report.of_peak(&load) <= 0.05, "{}", report.of_peak(&load));
    assert!(report.wasted > 1_000);
}

#[test]
fn a_fixed_limit_that_is_too_high_is_as_good_as_none() {
    let load = Load::default();
    let at = |fixed| {
        let guard = Guard {
            fixed: Some(fixed),
            ..Guard::default()
        };
        run(&guard, &load).of_peak(&load)
    };
    assert!(at(20) >= 0.9);
    assert!(at(1_000) <= 0.05);
}

#[test]
fn a_queue_that_knows_no_priorities_refuses_what_is_critical_too() {
    let load = Load::default();
    let guard = Guard {
        blind: true,
        ..guarded(Vegas::default())
    };
    let report = run(&guard, &load);
    assert!(report.of_peak(&load) >= 0.9);
    assert!(report.served(Priority::Critical) < 0.5);
}

#[test]
fn latencies_that_differ_widely_cost_little_throughput() {
    for algorithm in both() {
        let load = Load {
            spread: None,
            ..Load::default()
        };
        let report = run(&guarded(algorithm), &load);
        let good = report.of_peak(&load);
        assert!(good >= 0.9, "{good} {algorithm:?} {:?}", report.limits);
    }
}

#[test]
fn who_is_let_in_last_first_waits_less_than_who_queues_up() {
    let p99 = |order, target| {
        let mut guard = guarded(Vegas::default());
        guard.queue = Some(QueueConfig {
            order,
            target,
            ..QueueConfig::default()
        });
        let load = Load {
            critical: 0.0,
            sheddable: 0.0,
            ..Load::default()
        };
        let mut report = run(&guard, &load);
        assert!(report.of_peak(&load) >= 0.9, "{order:?}");
        report.p99()
    };
    // The longer they may wait, the more it is worth.
    for (target, gain) in [(QueueConfig::default().target, MS), (5 * MS, 5 * MS)] {
        let (fifo, lifo) = (p99(Order::Fifo, target), p99(Order::AdaptiveLifo, target));
        assert!(lifo + gain < fifo, "{target:?}: {fifo:?} {lifo:?}");
    }
}

/// All work takes equally long, so that all workers become free in the same moment.
#[test]
fn what_is_critical_is_served_where_places_become_free_in_batches() {
    for (workers, service) in [(8, 40 * MS), (16, 25 * MS)] {
        let load = Load {
            workers,
            service,
            patience: service * 10,
            spread: Some(0.0),
            ..Load::default()
        };
        let report = run(&guarded(Gradient2::default()), &load);
        let critical = report.served(Priority::Critical);
        assert!(critical >= 0.98, "{critical} {load:?} {:?}", report.limits);
        assert!(report.of_peak(&load) >= 0.9, "{load:?}");
    }
}

/// The service behind becomes three times as slow for good, and has as many workers as before.
#[test]
fn a_limit_that_measures_anew_follows_a_service_that_became_slower() {
    let load = Load {
        slower: 3.0,
        workers: 40,
        patience: 400 * MS,
        length: Duration::from_secs(60),
        ..Load::default()
    };
    let limits = |probe_interval| {
        let mut guard = guarded(Vegas::default());
        guard.adaptive = guard.adaptive.map(|config| AdaptiveConfig {
            probe_interval,
            ..config
        });
        run(&guard, &load).limits
    };
    let (anew, never) = (
        limits(Duration::from_secs(5)),
        limits(Duration::from_secs(86_400)),
    );
    let last = |limits: &[u32]| *limits[limits.len() - 5..].iter().max().unwrap();
    assert!((36..80).contains(&last(&anew)), "{anew:?}");
    // The negative control: with the old minimum every answer looks late.
    assert!(last(&never) < 20, "{never:?}");
}

#[test]
fn aimd_follows_losses_and_a_latency_that_is_too_high() {
    let load = Load::default();
    let aimd = Aimd { latency: 40 * MS };
    let report = run(&guarded(aimd), &load);
    let good = report.of_peak(&load);
    assert!(good >= 0.9, "{good} {:?}", report.limits);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let load = Load {
        length: Duration::from_secs(4),
        ..Load::default()
    };
    let [one, other] = [(); 2].map(|()| run(&guarded(Vegas::default()), &load));
    assert_eq!(one.latencies, other.latencies);
    assert_eq!(one.limits, other.limits);
}
