use super::*;
use crate::routing::role::Role;

const MS: Duration = Duration::from_millis(1);

fn rules() -> Rules {
    Rules {
        max_lag: 500 * MS,
        readmit_after: 3,
        cut_after: 3000 * MS,
        system_id: None,
    }
}

fn node(in_recovery: bool, timeline: u32, lsn: u64) -> Sighting {
    Sighting {
        system_id: 7,
        in_recovery,
        timeline: Some(timeline),
        timeline_floor: None,
        lsn: Lsn(lsn),
        received: Some(Lsn(lsn)),
        receiving: true,
        started: 1,
        port: 1,
    }
}

impl Topology {
    /// Each node on a server of its own.
    fn saw_on(&mut self, index: usize, seen: Sighting, now: Instant) {
        let port = index as u16;
        self.saw(index, Sighting { port, ..seen }, now, now);
    }
}

fn known(nodes: usize) -> Topology {
    let mut topology = Topology::new(rules());
    for index in 0..nodes {
        assert_eq!(topology.add(true, |_| true), index);
    }
    topology
}

fn three(start: Instant) -> Topology {
    let mut topology = known(3);
    topology.saw_on(0, node(false, 1, 100), start);
    topology.saw_on(1, node(true, 1, 100), start);
    topology.saw_on(2, node(true, 1, 100), start);
    topology
}

fn roles(topology: &Topology, now: Instant) -> Vec<Role> {
    topology
        .view(now)
        .nodes
        .iter()
        .map(|node| node.role)
        .collect()
}

#[test]
fn a_returned_old_primary_gets_nothing_where_the_naive_rule_would_choose_it() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(0, start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::NotFound));
    topology.saw_on(1, node(false, 2, 110), start);
    let returned = Sighting {
        started: 2,
        ..node(false, 1, 150)
    };
    topology.saw_on(0, returned, start);
    assert!(!returned.in_recovery, "the naive rule accepts it");
    assert_eq!(topology.view(start).primary, Ok(1));
    assert_eq!(roles(&topology, start)[0], Role::StalePrimary);
    // Not even when it is the only one left.
    topology.failed(1, start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::NotFound));
}

#[test]
fn two_primaries_on_one_timeline_refuse_writes() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(1, node(false, 1, 100), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
}

#[test]
fn a_standby_that_went_past_the_cut_is_quarantined_and_one_before_it_is_not() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(2, node(true, 1, 140), start);
    topology.saw_on(1, node(false, 2, 130), start);
    assert_eq!(
        roles(&topology, start)[2],
        Role::Unproven,
        "the history is not known yet"
    );
    topology.learn(History::parse(2, "1\t0/78\tx"), start);
    assert_eq!(roles(&topology, start)[2], Role::Diverged);
    topology.saw_on(
        2,
        Sighting {
            started: 9,
            ..node(true, 1, 120)
        },
        start,
    );
    assert_eq!(roles(&topology, start)[2], Role::Replica);
}

#[test]
fn a_demoted_node_loses_its_connections_and_a_promoted_one_keeps_them() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(0, start);
    topology.saw_on(1, node(false, 2, 110), start);
    let view = topology.view(start);
    assert_eq!((view.nodes[0].cut, view.nodes[0].generation), (1, 1));
    assert_eq!((view.nodes[1].cut, view.nodes[1].generation), (0, 0));
    assert_eq!((view.nodes[2].cut, view.nodes[2].generation), (0, 0));
}

#[test]
fn a_promotion_that_was_not_seen_to_be_of_one_life_keeps_no_connection() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(0, start);
    let restarted = Sighting {
        started: 2,
        ..node(false, 2, 110)
    };
    topology.saw_on(1, restarted, start);
    let view = topology.view(start);
    assert_eq!(view.primary, Ok(1));
    assert_eq!((view.nodes[1].cut, view.nodes[1].generation), (1, 1));
    // Nor does one that loses its role to another, and then its life.
    topology.saw_on(2, node(false, 3, 120), start);
    let view = topology.view(start);
    assert_eq!(view.primary, Ok(2));
    assert_eq!((view.nodes[1].cut, view.nodes[1].generation), (2, 2));
    assert_eq!((view.nodes[2].cut, view.nodes[2].generation), (0, 0));
}

#[test]
fn a_silent_primary_loses_its_leases_as_soon_as_it_is_known_that_another_may_write() {
    let start = Instant::now();
    let cut = |topology: &Topology| topology.view(start).nodes[0].cut;
    // A standby follows a newer timeline, whoever its primary is.
    let mut topology = three(start);
    topology.failed(0, start);
    assert_eq!(cut(&topology), 0, "it may come back");
    topology.saw_on(2, node(true, 2, 110), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::NotFound));
    assert_eq!(cut(&topology), 1);
    // Another one writes on its own timeline.
    let mut topology = three(start);
    topology.failed(0, start);
    topology.saw_on(2, node(false, 1, 90), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
    assert_eq!(cut(&topology), 1);
}

#[test]
fn an_outage_of_the_primary_ejects_nobody_who_is_fit_when_there_is_one_again() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(0, start);
    let gone = start + 5000 * MS;
    topology.saw_on(1, node(true, 1, 100), gone);
    let view = topology.view(gone);
    assert!(view.nodes[1].ejected, "while nobody can tell its lag");
    topology.saw_on(0, node(false, 1, 100), gone);
    topology.saw_on(1, node(true, 1, 100), gone);
    assert!(!topology.view(gone).nodes[1].ejected);
    // The control: one that was behind before is not readmitted by that.
    let mut behind = three(start);
    behind.saw_on(0, node(false, 1, 200), start);
    behind.saw_on(1, node(true, 1, 100), start + 600 * MS);
    assert!(behind.view(start + 600 * MS).nodes[1].ejected);
    behind.failed(0, start + 600 * MS);
    behind.saw_on(1, node(true, 1, 100), gone);
    behind.saw_on(0, node(false, 1, 200), gone);
    behind.saw_on(1, node(true, 1, 200), gone);
    assert!(behind.view(gone).nodes[1].ejected, "it has to prove itself");
}

#[test]
fn a_proof_is_forgotten_with_the_life_that_it_was_about() {
    let start = Instant::now();
    let mut topology = three(start);
    let proof = |topology: &Topology| topology.view(start).nodes[1].replayed().unwrap().lsn;
    assert_eq!(proof(&topology), Lsn(100));
    topology.saw_on(
        1,
        Sighting {
            started: 5,
            ..node(true, 1, 60)
        },
        start,
    );
    assert_eq!(proof(&topology), Lsn(60), "restarted and behind");
    topology.saw_on(1, node(true, 2, 50), start);
    assert_eq!(proof(&topology), Lsn(50), "another timeline");
}

#[test]
fn a_standby_without_a_receiver_is_believed_up_to_what_it_had_received() {
    let start = Instant::now();
    let mut topology = three(start);
    let silent = Sighting {
        timeline: None,
        received: None,
        ..node(true, 1, 400)
    };
    topology.saw_on(1, silent, start);
    let view = topology.view(start);
    assert_eq!(view.nodes[1].timeline, Some(1));
    // On timeline 1 nothing else is possible, so the floor settles it.
    let mut later = known(1);
    later.saw_on(
        0,
        Sighting {
            timeline_floor: Some(3),
            ..silent
        },
        start,
    );
    assert_eq!(roles(&later, start), [Role::Unproven]);
}

#[test]
fn a_node_of_another_cluster_is_refused_and_an_even_split_refuses_all() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(
        2,
        Sighting {
            system_id: 8,
            ..node(false, 9, 100)
        },
        start,
    );
    assert_eq!(topology.view(start).primary, Ok(0));
    assert_eq!(roles(&topology, start)[2], Role::Foreign);

    let mut split = known(2);
    split.saw_on(0, node(false, 1, 1), start);
    split.saw_on(
        1,
        Sighting {
            system_id: 8,
            ..node(false, 1, 1)
        },
        start,
    );
    assert_eq!(split.view(start).primary, Err(NoPrimary::SystemIdDispute));
}

#[test]
fn connections_of_a_node_that_stays_unreachable_are_cut_once() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(1, start);
    assert_eq!(topology.view(start).nodes[1].cut, 0);
    topology.failed(1, start + 3000 * MS);
    assert_eq!(topology.view(start).nodes[1].cut, 1);
    topology.failed(1, start + 3100 * MS);
    assert_eq!(topology.view(start).nodes[1].cut, 1);
}

#[test]
fn a_tie_lasts_until_one_of_the_two_gives_way_and_not_only_until_one_is_silent() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(2, node(false, 1, 100), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
    assert_eq!(
        roles(&topology, start)[1],
        Role::Unproven,
        "of which branch?"
    );
    // The control: counting only who answers would now write to the second branch.
    topology.failed(0, start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
    let mut solved = three(start);
    solved.saw_on(2, node(false, 1, 100), start);
    solved.saw_on(0, node(true, 1, 100), start);
    assert_eq!(solved.view(start).primary, Ok(2), "it follows the other");
    let mut solved = topology;
    solved.remove(0, start);
    assert_eq!(solved.view(start).primary, Ok(2), "it was removed");
    solved.saw_on(1, node(false, 2, 100), start);
    assert_eq!(solved.view(start).primary, Ok(1), "outbid");
}

#[test]
fn a_standby_is_set_aside_for_what_it_will_show_and_not_only_for_what_it_shows() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(1, node(false, 2, 130), start);
    topology.learn(History::parse(2, "1\t0/78\tx"), start);
    let paused = Sighting {
        received: Some(Lsn(140)),
        ..node(true, 1, 110)
    };
    topology.saw_on(2, paused, start);
    assert_eq!(roles(&topology, start)[2], Role::Diverged);
}

#[test]
fn one_server_under_two_names_is_one_node() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw(
        2,
        Sighting {
            port: 0,
            ..node(false, 1, 100)
        },
        start,
        start,
    );
    let view = topology.view(start);
    assert_eq!(view.primary, Ok(0), "no tie with itself");
    assert_eq!(view.nodes[2].role, Role::Duplicate);
    assert_eq!(view.nodes[2].same_as, Some(0));
    topology.failed(0, start);
    let view = topology.view(start);
    assert_eq!(view.primary, Ok(2), "the other address still leads to it");
}

#[test]
fn a_removed_node_counts_for_nothing_and_its_place_tells_the_next_one_apart() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.remove(0, start);
    let view = topology.view(start);
    assert_eq!(view.primary, Err(NoPrimary::NotFound));
    assert_eq!(view.nodes[0].role, Role::Unreachable);
    assert_eq!(view.nodes[0].cut, 0, "what is in use ends in peace");
    assert_eq!(
        topology.add(false, |_| false),
        3,
        "the place is still in use"
    );
    assert_eq!(topology.add(false, |_| true), 0);
    let again = topology.view(start);
    assert!(again.nodes[0].generation > view.nodes[0].generation);
    topology.saw_on(0, node(false, 1, 120), start);
    let back = topology.view(start);
    assert_eq!(back.primary, Ok(0));
    assert!(
        back.epoch > 1,
        "a lease of the one before is not of this epoch"
    );
}

#[test]
fn a_standby_that_receives_from_nobody_is_said_to() {
    let start = Instant::now();
    let mut topology = three(start);
    let alone = Sighting {
        receiving: false,
        ..node(true, 1, 100)
    };
    topology.saw_on(1, alone, start);
    let view = topology.view(start);
    assert!(view.nodes[1].cut_off && !view.nodes[2].cut_off && !view.nodes[0].cut_off);
}

#[test]
fn a_slow_answer_of_the_primary_makes_no_replica_look_fresher() {
    let start = Instant::now();
    let mut topology = three(start);
    let (asked, now) = (start + 100 * MS, start + 500 * MS);
    topology.saw(
        0,
        Sighting {
            port: 0,
            ..node(false, 1, 100)
        },
        asked,
        now,
    );
    // What was written between the question and the answer may be on the primary alone.
    assert_eq!(topology.view(now).nodes[1].fresh_at, Some(asked));
}

#[test]
fn a_standby_of_a_tied_timeline_is_trusted_again_in_another_life_only() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(2, node(false, 1, 100), start);
    topology.saw_on(2, node(true, 1, 100), start);
    assert_eq!(topology.view(start).primary, Ok(0));
    topology.saw_on(1, node(true, 1, 120), start);
    assert_eq!(roles(&topology, start)[1], Role::Unproven);
    let again = Sighting {
        started: 2,
        ..node(true, 1, 120)
    };
    topology.saw_on(1, again, start);
    assert_eq!(roles(&topology, start)[1], Role::Replica);
}

#[test]
fn a_primary_that_stands_before_what_its_timeline_is_known_to_have_is_another_branch() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw_on(0, node(false, 1, 500), start);
    topology.failed(0, start);
    topology.saw_on(1, node(false, 1, 300), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
    // Writing on does not make it the same log.
    topology.saw_on(1, node(false, 1, 600), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
    // One that has all of it may be the same log on other hardware.
    let mut moved = three(start);
    moved.saw_on(0, node(false, 1, 500), start);
    moved.failed(0, start);
    moved.saw_on(1, node(false, 1, 500), start);
    assert_eq!(moved.view(start).primary, Ok(1));
}
