//! The rules against a store that exists only here, and beside them the naive ways, which must fail the same checks.
//!
//! Each seed is a history of its own: failovers, promotions of two standbys to one timeline, replication and the router's links cut
//! separately, frozen servers, paused replay, old primaries that come back and take writes, standbys that went past a cut,
//! clocks that jump, histories that cannot be read. A failure prints its seed, and the seed replays it.

mod check;
mod counts;
mod requests;
mod run;
mod world;

use counts::Counts;
use run::{Brain, Run};

/// 100 seeds of 10,000 steps: a million.
const SEEDS: u64 = 100;
const STEPS: u64 = 10_000;

fn all(brain: Brain, seeds: u64) -> Counts {
    let mut sum = Counts::default();
    for seed in 0..seeds {
        let mut run = Run::new(seed, brain);
        run.steps(STEPS);
        let found = run.counts;
        if brain == Brain::Rules {
            let wrong = [
                found.stale,
                found.late,
                found.phantom,
                found.astray,
                found.unreported,
            ];
            assert_eq!(wrong, [0; 5], "seed {seed}: {found:?}");
        }
        sum.add(&found);
    }
    eprintln!("{brain:?}: {sum:?}");
    sum
}

#[test]
fn a_million_steps_show_no_stale_late_or_phantom_read_and_no_write_to_a_primary_known_to_be_stale()
{
    let sum = all(Brain::Rules, SEEDS);
    assert_eq!(sum.steps, 1_000_000);
    // That it was put to the test at all.
    assert!(sum.writes > 10_000 && sum.on_replicas > 50_000, "{sum:?}");
    assert!(sum.without_primary > 1_000 && sum.lost > 50, "{sum:?}");
    assert!(sum.on_kept > 100 && sum.on_flipped > 100, "{sum:?}");
    assert!(sum.promotions > 500 && sum.ties > 100, "{sum:?}");
}

#[test]
fn comparing_positions_without_timelines_shows_phantoms_and_misses_lost_writes() {
    let sum = all(Brain::PositionAlone, SEEDS / 10);
    assert!(sum.phantom > 0 && sum.unreported > 0, "{sum:?}");
}

#[test]
fn the_age_of_the_last_replayed_commit_takes_late_replicas_for_fresh() {
    let sum = all(Brain::CommitClock, SEEDS / 10);
    assert!(sum.late > 0, "{sum:?}");
}

#[test]
fn taking_whoever_was_probed_last_writes_to_stale_primaries() {
    let sum = all(Brain::LastProbed, SEEDS / 10);
    assert!(sum.astray > 0, "{sum:?}");
}

#[test]
fn a_lease_that_outlives_its_nodes_role_writes_to_stale_primaries() {
    let sum = all(Brain::KeepsLeases, SEEDS / 10);
    assert!(sum.astray > 0, "{sum:?}");
}

#[test]
fn a_proof_of_one_life_used_for_a_connection_of_the_next_reads_stale() {
    let sum = all(Brain::AnyLife, SEEDS);
    assert!(sum.stale > 0, "{sum:?}");
}
