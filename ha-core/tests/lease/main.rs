//! Leases under everything that goes wrong: skewed and drifting clocks, pauses, lost, late and repeated messages, failovers that
//! lose the newest writes, and two sides that both take writes. Every run has a seed and is repeated from it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod participant;
mod random;
mod world;

use world::{Faults, Rules, Totals, World};

const RUNS: u64 = 100_000;

fn run(runs: u64, rules: Rules, faults: Faults) -> Totals {
    let part = |start: u64| {
        let mut totals = Totals::default();
        for seed in (start..runs).step_by(2) {
            World::new(seed, rules, faults).run(&mut totals);
        }
        totals
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| part(1));
        let mut totals = part(0);
        totals += odd.join().unwrap();
        totals
    })
}

#[test]
fn no_two_holders_in_a_hundred_thousand_runs() {
    let totals = run(RUNS, Rules::default(), Faults::default());
    eprintln!("{totals:?}");
    assert_eq!(totals.first_violation, None);
    assert!(totals.grants > 3 * RUNS, "too little happened: {totals:?}");
    assert!(
        totals.failovers > RUNS / 2 && totals.lost_writes > RUNS / 10,
        "{totals:?}"
    );
    assert!(
        totals.expired > RUNS / 2 && totals.late > RUNS,
        "{totals:?}"
    );
    // With everything healed, somebody holds it again within a few lease times.
    assert_eq!(totals.orphaned, 0, "nobody holds it in the end: {totals:?}");
}

#[test]
fn between_two_sides_that_both_take_writes_the_fence_tells_who_is_newer() {
    let split = Faults {
        split: true,
        ..Faults::default()
    };
    let totals = run(RUNS / 50, Rules::default(), split);
    eprintln!("{totals:?}");
    assert_eq!(totals.duplicate_fences, 0, "{totals:?}");
    assert_eq!(totals.lower_fences, 0, "{totals:?}");
    // In time they do overlap: no lease can prevent that, which is why it has a fence.
    assert!(totals.overlaps > 0, "{totals:?}");
    assert!(totals.refused_writes > 0, "{totals:?}");
}

#[test]
fn a_count_without_the_epoch_is_given_out_twice() {
    let naive = Rules {
        hide_epoch: true,
        ..Rules::default()
    };
    let totals = run(RUNS / 50, naive, Faults::default());
    eprintln!("{totals:?}");
    assert!(totals.duplicate_fences > 0, "{totals:?}");
    assert!(totals.lower_fences > 0, "{totals:?}");
    assert!(totals.overlaps > 0, "{totals:?}");
}

/// What is not promised: an epoch that two failovers have taken is no epoch.
#[test]
fn where_two_failovers_take_one_epoch_a_fence_is_given_out_twice() {
    let forgetful = Faults {
        forgetful: true,
        ..Faults::default()
    };
    let totals = run(RUNS / 50, Rules::default(), forgetful);
    eprintln!("{totals:?}");
    assert!(totals.duplicate_fences > 0, "{totals:?}");
    assert!(totals.lower_fences > 0, "{totals:?}");
}

#[test]
fn time_that_runs_from_the_answer_overlaps() {
    let naive = Rules {
        count_from_answer: true,
        ..Rules::default()
    };
    let totals = run(RUNS / 50, naive, Faults::default());
    eprintln!("{totals:?}");
    assert!(totals.overlaps > 0, "{totals:?}");
}

#[test]
fn an_expiry_by_wall_clock_overlaps_as_soon_as_clocks_differ() {
    let naive = Rules {
        wall_clock: true,
        ..Rules::default()
    };
    let calm = Faults {
        failovers: false,
        pauses: false,
        ..Faults::default()
    };
    let totals = run(RUNS / 50, naive, calm);
    eprintln!("{totals:?}");
    assert!(totals.overlaps > 0, "{totals:?}");
    let fair = run(RUNS / 50, Rules::default(), calm);
    assert_eq!(fair.first_violation, None);
}
