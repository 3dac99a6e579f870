//! Primaries that compete, links that break, nodes that come and go: what the router makes of them, each beside the naive way.

use std::time::Duration;

use ha_db::postgres::{Builder, Causal, Consistency, Error, NoPrimary, Problem, Role, Router};
use ha_testbed::link::Link;
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, prepared, sees, started, write};

fn primary_is(router: &Router, cluster: &Cluster, index: usize) -> bool {
    router.status().primary.as_deref() == Some(&*cluster.nodes[index].name)
}

async fn takes_writes(cluster: &Cluster, index: usize) -> bool {
    !cluster.nodes[index].is_replica().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_primaries_the_newer_timeline_wins_in_whatever_order_they_are_probed() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let turned = cluster.nodes.iter().rev();
    let turned = turned.fold(Router::builder(), |builder, node| {
        builder.node(&node.name, node.conninfo())
    });
    let routers = [started(builder(&cluster)).await, started(turned).await];
    cluster.promote(1).await.unwrap();
    assert!(takes_writes(&cluster, 0).await && takes_writes(&cluster, 1).await);
    for (number, router) in routers.iter().enumerate() {
        eventually("the newer one is primary", async || {
            primary_is(router, &cluster, 1)
        })
        .await;
        let old = cluster.nodes[0].name.as_str();
        let db = router.db(Causal::default());
        for turn in 0..50 {
            let id = 100 * number as i64 + turn;
            write(&db, id).await;
            let status = router.status();
            let old = status.nodes.iter().find(|node| node.name == old).unwrap();
            assert_eq!(old.role, Role::StalePrimary);
            assert_eq!(old.problem, Some(Problem::StalePrimary));
        }
    }
    let stale = cluster.nodes[0].client().await.unwrap();
    let count: i64 = stale
        .query_one("SELECT count(*) FROM note", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 0, "the old primary got a write");
    // The control: the last node asked that is not in recovery. It is the old one whenever that is asked last.
    let mut last = None;
    for index in [1, 0] {
        if takes_writes(&cluster, index).await {
            last = Some(index);
        }
    }
    assert_eq!(last, Some(0), "the control must choose the stale one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_primaries_of_one_timeline_get_no_writes_until_one_is_taken_out() {
    let cluster = prepared(Postgres::primary(), 2).await;
    let router = started(builder(&cluster).write_wait(Duration::from_millis(200))).await;
    all_in_use(&router, 2).await;
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    cluster.promote(2).await.unwrap();
    let tied = async || router.status().no_primary == Some(NoPrimary::Tie);
    eventually("the tie is seen", tied).await;
    let is_tie = |error: Error| {
        let reason = NoPrimary::Tie;
        matches!(error, Error::NoPrimary { reason: why, .. } if why == reason)
    };
    assert!(is_tie(router.write().await.unwrap_err()));
    // The control: both would take it.
    for index in [1, 2] {
        assert!(takes_writes(&cluster, index).await);
    }
    // That one of them is silent does not say that the other is right.
    cluster.nodes[2].kill().await.unwrap();
    eventually("node 2 is unreachable", async || {
        !router.status().nodes[2].reachable
    })
    .await;
    assert!(is_tie(router.write().await.unwrap_err()));
    router.remove_node(&cluster.nodes[2].name).unwrap();
    eventually("node 1 is primary", async || {
        primary_is(&router, &cluster, 1)
    })
    .await;
    write(&router.db(Causal::default()), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_starts_while_all_nodes_are_down_and_they_may_come_up_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let cluster = prepared(Postgres::primary(), 2).await;
        for node in &cluster.nodes {
            node.kill().await.unwrap();
        }
        let router = builder(&cluster)
            .write_wait(Duration::from_millis(200))
            .build()
            .unwrap();
        let error = router.write().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(router.read().await.is_err());
        for (up, index) in order.into_iter().enumerate() {
            cluster.nodes[index].start().await.unwrap();
            eventually("the node is seen", async || {
                router.status().nodes[index].reachable
            })
            .await;
            if order[..=up].contains(&0) {
                router.wait_primary(DEADLINE).await.unwrap();
                assert!(primary_is(&router, &cluster, 0));
            } else {
                assert!(router.status().primary.is_none());
                // Nobody takes writes; what there is can be read.
                eventually("it serves reads", async || router.read().await.is_ok()).await;
            }
        }
        all_in_use(&router, 2).await;
        write(&router.db(Causal::default()), 1).await;
    }
}

/// A router that reaches node 0 through the link only.
async fn through(link: &Link, cluster: &Cluster, adjust: impl Fn(Builder) -> Builder) -> Router {
    let port = link.addr().port();
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let linked = Router::builder().node(&cluster.nodes[0].name, conninfo);
    let others = cluster.nodes[1..].iter();
    let builder = others.fold(linked, |builder, node| {
        builder.node(&node.name, node.conninfo())
    });
    let router = started(adjust(builder)).await;
    all_in_use(&router, cluster.nodes.len() - 1).await;
    router
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_every_kind_of_partition_reads_go_on_and_writes_come_back_with_the_link() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let server = ([127, 0, 0, 1], cluster.nodes[0].port).into();
    let link = Link::to(server).await.unwrap();
    let router = through(&link, &cluster, |builder| {
        builder.write_wait(Duration::from_millis(300))
    })
    .await;
    let db = router.db(Causal::default());
    for (id, kind) in ["rejected", "dropped", "one way to it", "one way from it"]
        .into_iter()
        .enumerate()
    {
        let id = id as i64;
        router.wait_primary(DEADLINE).await.unwrap();
        write(&db, id).await;
        cluster.wait_caught_up(0, DEADLINE).await.unwrap();
        match kind {
            "rejected" => link.cut().await.unwrap(),
            "dropped" => link.silence().await.unwrap(),
            "one way to it" => link.silence_to_client().await.unwrap(),
            _ => link.silence_to_server().await.unwrap(),
        }
        eventually(kind, async || {
            router.status().nodes[0].role == Role::Unreachable
        })
        .await;
        let error = router.write().await.unwrap_err();
        assert!(error.is_retryable(), "{kind}: {error:?}");
        let conn = db.read().await.unwrap();
        assert_eq!(conn.node(), cluster.nodes[1].name);
        assert!(sees(&conn, id).await.unwrap(), "{kind}");
        drop(conn);
        link.restore().await.unwrap();
        eventually("the primary is back", async || {
            primary_is(&router, &cluster, 0)
        })
        .await;
    }
    for id in 0..4 {
        let conn = router.write().await.unwrap();
        assert!(sees(&conn, id).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_replaced_behind_a_partition_gets_nothing_when_it_is_seen_again() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let server = ([127, 0, 0, 1], cluster.nodes[0].port).into();
    let link = Link::to(server).await.unwrap();
    let router = through(&link, &cluster, |builder| builder).await;
    link.silence().await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the promoted one is primary", async || {
        primary_is(&router, &cluster, 1)
    })
    .await;
    write(&router.db(Causal::default()), 1).await;
    link.restore().await.unwrap();
    eventually("the old one is seen", async || {
        router.status().nodes[0].role == Role::StalePrimary
    })
    .await;
    assert!(
        takes_writes(&cluster, 0).await,
        "the control would write to it"
    );
    for id in 2..30 {
        write(&router.db(Causal::default()), id).await;
    }
    let old = cluster.nodes[0].client().await.unwrap();
    assert!(!sees(&old, 1).await.unwrap() && !sees(&old, 29).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_newer_timeline_and_a_broken_connection_have_nodes_probed_at_once() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let slow = || {
        builder(&cluster)
            .probe_interval(Duration::from_secs(300))
            .max_lag(Duration::from_secs(600))
            .write_wait(DEADLINE)
    };
    let (told, untold) = (started(slow()).await, started(slow()).await);
    let quick = started(builder(&cluster)).await;
    cluster.promote(1).await.unwrap();
    eventually("one router knows", async || primary_is(&quick, &cluster, 1)).await;
    let client = quick.db(Causal::default());
    write(&client, 1).await;
    // The control: who is told nothing still writes to the old one, which takes it.
    assert!(primary_is(&untold, &cluster, 0) && primary_is(&told, &cluster, 0));
    let db = told.db(Causal::new(client.token().await));
    write(&db, 2).await;
    assert!(primary_is(&told, &cluster, 1));
    assert!(
        primary_is(&untold, &cluster, 0),
        "the control must not know"
    );
    // A broken connection tells as well.
    cluster.nodes[0].kill().await.unwrap();
    write(&untold.db(Causal::default()), 3).await;
    assert!(primary_is(&untold, &cluster, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_a_standby_serves_reads_and_follows_through_a_promotion() {
    let cluster = prepared(Postgres::primary(), 2).await;
    cluster.follow(2, 1).await.unwrap();
    let router = started(builder(&cluster)).await;
    all_in_use(&router, 2).await;
    let db = router.db(Causal::default());
    let mut served = [0; 3];
    for id in 0..100 {
        write(&db, id).await;
        // A context of its own on every read, so that reads are spread.
        let db = router.db(Causal::new(db.token().await));
        let conn = db.read().await.unwrap();
        assert!(sees(&conn, id).await.unwrap());
        let at = cluster
            .nodes
            .iter()
            .position(|node| node.name == conn.node());
        served[at.unwrap()] += 1;
    }
    assert!(served[1] > 0 && served[2] > 0, "{served:?}");
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("node 1 is primary", async || {
        primary_is(&router, &cluster, 1)
    })
    .await;
    // It follows by itself: its upstream has become the primary.
    eventually("node 2 serves on the new timeline", async || {
        let status = router.status();
        let node = &status.nodes[2];
        node.role == Role::Replica && node.timeline == Some(2) && !node.ejected
    })
    .await;
    write(&db, 1000).await;
    let conn = db.read().await.unwrap();
    assert!(sees(&conn, 1000).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_while_the_router_runs() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[1]);
    let router = Router::builder().node(&primary.name, primary.conninfo());
    let router = started(router).await;
    for _ in 0..3 {
        router
            .add_node(&replica.name, replica.conninfo(), None)
            .unwrap();
        let twice = router.add_node(&replica.name, replica.conninfo(), None);
        assert!(twice.unwrap_err().to_string().contains("given twice"));
        all_in_use(&router, 1).await;
        let lent = router.read().await.unwrap();
        assert_eq!(lent.node(), replica.name);
        router.remove_node(&replica.name).unwrap();
        assert_eq!(router.status().nodes.len(), 1);
        let conn = router.read().await.unwrap();
        assert_eq!(conn.node(), primary.name);
        lent.simple_query("SELECT 1")
            .await
            .expect("what is lent may end in peace");
    }
    assert!(router.remove_node("nobody").is_err());
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ha-db'";
    let client = replica.client().await.unwrap();
    eventually("nothing of the router is left on it", async || {
        client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let strong = router.db(Causal::default());
    drop(strong.read_with(Consistency::Strong).await.unwrap());
}
