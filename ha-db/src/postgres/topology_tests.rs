use super::*;

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
        started: 1,
    }
}

fn three(start: Instant) -> Topology {
    let mut topology = Topology::new(3, rules());
    topology.saw(0, node(false, 1, 100), start);
    topology.saw(1, node(true, 1, 100), start);
    topology.saw(2, node(true, 1, 100), start);
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
    topology.saw(1, node(false, 2, 110), start);
    let returned = Sighting {
        started: 2,
        ..node(false, 1, 150)
    };
    topology.saw(0, returned, start);
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
    topology.saw(1, node(false, 1, 100), start);
    assert_eq!(topology.view(start).primary, Err(NoPrimary::Tie));
}

#[test]
fn a_standby_that_went_past_the_cut_is_quarantined_and_one_before_it_is_not() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.saw(2, node(true, 1, 140), start);
    topology.saw(1, node(false, 2, 130), start);
    assert_eq!(
        roles(&topology, start)[2],
        Role::Unproven,
        "the history is not known yet"
    );
    topology.learn(History::parse(2, "1\t0/78\tx"), start);
    assert_eq!(roles(&topology, start)[2], Role::Diverged);
    topology.saw(
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
fn a_demoted_node_loses_its_leases_and_a_promoted_one_only_its_idle_connections() {
    let start = Instant::now();
    let mut topology = three(start);
    topology.failed(0, start);
    topology.saw(1, node(false, 2, 110), start);
    let view = topology.view(start);
    assert_eq!((view.nodes[0].cut, view.nodes[0].generation), (1, 1));
    assert_eq!((view.nodes[1].cut, view.nodes[1].generation), (0, 1));
    assert_eq!((view.nodes[2].cut, view.nodes[2].generation), (0, 0));
}

#[test]
fn a_proof_is_forgotten_with_the_life_that_it_was_about() {
    let start = Instant::now();
    let mut topology = three(start);
    let proof = |topology: &Topology| topology.view(start).nodes[1].replayed().unwrap().lsn;
    assert_eq!(proof(&topology), Lsn(100));
    topology.saw(
        1,
        Sighting {
            started: 5,
            ..node(true, 1, 60)
        },
        start,
    );
    assert_eq!(proof(&topology), Lsn(60), "restarted and behind");
    topology.saw(1, node(true, 2, 50), start);
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
    topology.saw(1, silent, start);
    let view = topology.view(start);
    assert_eq!(view.nodes[1].timeline, Some(1));
    // On timeline 1 nothing else is possible, so the floor settles it.
    let mut later = Topology::new(1, rules());
    later.saw(
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
    topology.saw(
        2,
        Sighting {
            system_id: 8,
            ..node(false, 9, 100)
        },
        start,
    );
    assert_eq!(topology.view(start).primary, Ok(0));
    assert_eq!(roles(&topology, start)[2], Role::Foreign);

    let mut split = Topology::new(2, rules());
    split.saw(0, node(false, 1, 1), start);
    split.saw(
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
