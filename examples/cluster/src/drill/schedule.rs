//! What is broken, in which order, and whom it hits: drawn from the seed and from nothing else.

use std::time::Duration;

use serde::Serialize;

/// A way to break the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// One app server is killed.
    AppKilled,
    /// Two of three app servers are killed.
    TwoAppsKilled,
    /// An app server says that it is not ready, and answers wrongly.
    AppWrong,
    /// One edge is killed.
    EdgeKilled,
    /// A PostgreSQL replica is killed, and the other one replays late.
    ReplicaKilled,
    /// The PostgreSQL primary is killed.
    PrimaryKilled,
    /// The PostgreSQL primary is frozen, and thawed after the failover.
    PrimaryFrozen,
    /// The Redis master is killed, with its last writes on no replica.
    RedisMasterKilled,
}

impl Fault {
    /// Every fault, in the order of the drill: the ones that nobody should notice come first.
    pub(crate) const ALL: [Self; 8] = [
        Self::AppKilled,
        Self::TwoAppsKilled,
        Self::AppWrong,
        Self::EdgeKilled,
        Self::ReplicaKilled,
        Self::PrimaryKilled,
        Self::PrimaryFrozen,
        Self::RedisMasterKilled,
    ];

    /// The name of the phase, in the table and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppKilled => "app killed",
            Self::TwoAppsKilled => "two of three apps killed",
            Self::AppWrong => "app fails readyz but still answers, wrongly",
            Self::EdgeKilled => "edge killed",
            Self::ReplicaKilled => "postgres replica killed",
            Self::PrimaryKilled => "postgres primary killed",
            Self::PrimaryFrozen => "postgres primary frozen and thawed after failover",
            Self::RedisMasterKilled => "redis master killed",
        }
    }
}

/// One phase: the fault, and what chance decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) fault: Fault,
    /// How long after the warm-up it strikes: so that it falls anywhere into the rhythm of checks and probes.
    pub(crate) delay: Duration,
    /// Seeds the draw of the victims.
    draw: u64,
}

/// The phases of a drill: all, or those of the faults in `only`, with what the seed decides about them in either case.
pub(crate) fn draw(seed: u64, only: &[Fault]) -> Vec<Phase> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let phase = |fault| Phase {
        fault,
        delay: Duration::from_millis(rng.u64(0..1_000)),
        draw: rng.u64(..),
    };
    let mut phases: Vec<_> = Fault::ALL.into_iter().map(phase).collect();
    phases.retain(|phase| only.is_empty() || only.contains(&phase.fault));
    phases
}

impl Phase {
    /// Draws `count` of `candidates`; fewer when there are fewer. The order of `candidates` does not matter.
    pub(crate) fn victims(&self, candidates: &[String], count: usize) -> Vec<String> {
        let mut candidates = candidates.to_vec();
        candidates.sort();
        fastrand::Rng::with_seed(self.draw).shuffle(&mut candidates);
        candidates.truncate(count);
        candidates
    }
}

/// How patient the drill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Undisturbed load before each fault: the "before" of the table.
    pub(crate) warm_up: Duration,
    /// Nothing may have gone wrong for this long before a phase counts as healed.
    pub(crate) quiet: Duration,
    /// How long a fault is kept up at least.
    pub(crate) hold: Duration,
    /// Load after the cluster is whole again: a returned part may do harm as well.
    pub(crate) cool_down: Duration,
    /// Longest time from the fault until users are served as before.
    pub(crate) heal_deadline: Duration,
    /// Longest time from the restart of what was broken until the cluster is whole.
    pub(crate) whole_deadline: Duration,
}

impl Pace {
    pub(crate) const FULL: Self = Self {
        warm_up: Duration::from_secs(8),
        quiet: Duration::from_secs(4),
        hold: Duration::from_secs(10),
        cool_down: Duration::from_secs(5),
        heal_deadline: Duration::from_secs(60),
        whole_deadline: Duration::from_secs(90),
    };

    pub(crate) const QUICK: Self = Self {
        warm_up: Duration::from_millis(1_500),
        quiet: Duration::from_millis(2_000),
        hold: Duration::from_millis(4_000),
        cool_down: Duration::from_millis(1_000),
        heal_deadline: Duration::from_secs(40),
        whole_deadline: Duration::from_secs(60),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_schedule_and_another_seed_another() {
        assert_eq!(draw(7, &[]), draw(7, &[]));
        assert_ne!(draw(7, &[]), draw(8, &[]));
    }

    #[test]
    fn every_fault_has_its_phase_in_order() {
        let faults: Vec<_> = draw(1, &[]).iter().map(|phase| phase.fault).collect();
        assert_eq!(faults, Fault::ALL);
    }

    #[test]
    fn a_phase_alone_is_the_one_that_the_whole_drill_would_have() {
        let whole = draw(7, &[]);
        let only = [Fault::RedisMasterKilled, Fault::AppWrong];
        assert_eq!(draw(7, &only), [whole[2].clone(), whole[7].clone()]);
    }

    #[test]
    fn victims_are_distinct_and_do_not_depend_on_the_order_of_the_candidates() {
        for seed in 0..50 {
            let phase = &draw(seed, &[])[1];
            let mut drawn = phase.victims(&names(&["app-1", "app-2", "app-3"]), 2);
            assert_eq!(
                drawn,
                phase.victims(&names(&["app-3", "app-1", "app-2"]), 2)
            );
            drawn.sort();
            drawn.dedup();
            assert_eq!(drawn.len(), 2);
        }
    }

    #[test]
    fn every_candidate_is_hit_by_some_seed() {
        let candidates = names(&["app-1", "app-2", "app-3"]);
        for candidate in &candidates {
            let hit = |seed| draw(seed, &[])[0].victims(&candidates, 1) == [candidate.clone()];
            assert!((0..50).any(hit), "{candidate} is never hit");
        }
    }

    #[test]
    fn a_draw_from_too_few_takes_what_there_is() {
        assert_eq!(
            draw(1, &[])[0].victims(&names(&["app-1"]), 2),
            names(&["app-1"])
        );
        assert!(draw(1, &[])[0].victims(&[], 1).is_empty());
    }
}
