//! PostgreSQL beds: replication works, and so does breaking it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ha_testbed::postgres::{Cluster, Node, Postgres};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_the_primary_takes_is_seen_on_both_replicas() {
    let started = std::time::Instant::now();
    let cluster = Postgres::primary().replicas(2).start().await.unwrap();
    println!("three nodes in {:?}", started.elapsed());
    let primary = cluster.nodes[0].client().await.unwrap();
    primary
        .batch_execute("create table note (id int); insert into note values (7)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    for node in &cluster.nodes[1..] {
        let row = node
            .client()
            .await
            .unwrap()
            .query_one("select id from note", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), 7);
        assert!(
            node.client()
                .await
                .unwrap()
                .batch_execute("insert into note values (8)")
                .await
                .is_err()
        );
    }
}

async fn count(node: &Node) -> i64 {
    let client = node.client().await.unwrap();
    let row = client.query_one("select count(*) from note", &[]).await;
    row.unwrap().get(0)
}

async fn with_a_note(replicas: usize) -> Cluster {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("create table note (id int); insert into note values (1)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster
}

#[tokio::test]
async fn a_killed_node_comes_back_on_its_port_with_all_it_had() {
    let cluster = with_a_note(0).await;
    let node = &cluster.nodes[0];
    let (port, open) = (node.port, node.client().await.unwrap());
    node.kill().await.unwrap();
    assert!(open.batch_execute("select 1").await.is_err());
    assert!(node.client().await.is_err());
    node.start().await.unwrap();
    assert_eq!((node.port, count(node).await), (port, 1));
    node.restart().await.unwrap();
    assert_eq!(count(node).await, 1);
}

#[tokio::test]
async fn a_frozen_node_keeps_its_connections_and_answers_none() {
    let cluster = with_a_note(0).await;
    let node = &cluster.nodes[0];
    let open = node.client().await.unwrap();
    node.freeze().unwrap();
    let asked = open.query_one("select count(*) from note", &[]);
    let mut asked = std::pin::pin!(asked);
    let short = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(short, asked.as_mut()).await.is_err(),
        "a frozen backend answered"
    );
    node.thaw().unwrap();
    let row = tokio::time::timeout(DEADLINE, asked).await.unwrap();
    assert_eq!(row.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_promoted_replica_takes_writes_and_the_others_follow_it() {
    let cluster = with_a_note(2).await;
    // The old primary writes on after the new one was made, so that it has to be rewound.
    cluster.promote(1).await.unwrap();
    for (node, id) in [(0, 2), (0, 3), (1, 4)] {
        let client = cluster.nodes[node].client().await.unwrap();
        let insert = format!("insert into note values ({id})");
        client.batch_execute(&insert).await.unwrap();
    }
    cluster.nodes[0].kill().await.unwrap();
    // Node 2 may have received what the old primary wrote after the split; both ways must end well.
    cluster.nodes[2].kill().await.unwrap();
    cluster.follow(2, 1).await.unwrap();
    cluster.follow(0, 1).await.unwrap();
    cluster.wait_caught_up(1, DEADLINE).await.unwrap();
    for node in &cluster.nodes {
        assert_eq!(
            count(node).await,
            2,
            "{} has what only the old primary had",
            node.name
        );
    }
}

#[tokio::test]
async fn a_running_replica_is_pointed_to_another_primary() {
    let cluster = with_a_note(2).await;
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    cluster.follow(2, 1).await.unwrap();
    let client = cluster.nodes[1].client().await.unwrap();
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    cluster.wait_caught_up(1, DEADLINE).await.unwrap();
    assert_eq!(count(&cluster.nodes[2]).await, 2);
}

#[tokio::test]
async fn a_paused_replica_shows_nothing_new_until_it_is_resumed() {
    let cluster = with_a_note(1).await;
    cluster.pause_replay(1).await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    // Received, as the primary sees, and still not shown.
    cluster
        .wait_flushed(0, DEADLINE)
        .await
        .expect("a paused replica goes on receiving");
    let short = Duration::from_millis(300);
    let behind = cluster.wait_caught_up(0, short).await.unwrap_err();
    assert!(
        behind.to_string().contains("last seen: behind: postgres-1"),
        "{behind}"
    );
    assert_eq!(count(&cluster.nodes[1]).await, 1);
    cluster.resume_replay(1).await.unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    assert_eq!(count(&cluster.nodes[1]).await, 2);
}

#[tokio::test]
async fn a_synchronous_primary_waits_for_a_replica_before_it_answers() {
    let cluster = Postgres::primary()
        .replicas(1)
        .synchronous(true)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("create table note (id int)")
        .await
        .unwrap();
    cluster.nodes[1].kill().await.unwrap();
    let insert = client.batch_execute("insert into note values (1)");
    let mut insert = std::pin::pin!(insert);
    let short = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(short, insert.as_mut()).await.is_err(),
        "acknowledged without a replica"
    );
    cluster.nodes[1].start().await.unwrap();
    tokio::time::timeout(DEADLINE, insert)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_setting_of_the_test_wins_and_a_wrong_one_is_shown_with_the_log() {
    let cluster = Postgres::primary()
        .setting("max_connections", "17")
        .setting("log_line_prefix", "it's %m ")
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    let shown = client.query_one("show max_connections", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "17");

    let error = Postgres::primary()
        .setting("max_conections", "17")
        .start()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("unrecognized configuration parameter \"max_conections\""),
        "{text}"
    );
}

#[tokio::test]
async fn clusters_started_at_once_do_not_meet() {
    let (one, two) = tokio::join!(
        Postgres::primary().replicas(1).start(),
        Postgres::primary().replicas(1).start()
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    for (cluster, name) in [(&one, "one"), (&two, "two")] {
        let client = cluster.nodes[0].client().await.unwrap();
        let create = format!("create table {name} (id int)");
        client.batch_execute(&create).await.unwrap();
        cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    }
    one.nodes[0].kill().await.unwrap();
    let client = two.nodes[1].client().await.unwrap();
    let tables = "select string_agg(relname, ',') from pg_stat_user_tables";
    let row = client.query_one(tables, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "two");
}

#[tokio::test]
async fn a_frozen_postmaster_serves_who_is_connected_and_nobody_else() {
    let cluster = with_a_note(0).await;
    let node = &cluster.nodes[0];
    let open = node.client().await.unwrap();
    node.freeze_postmaster().unwrap();
    let row = open.query_one("select count(*) from note", &[]).await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 1);
    let mut new = std::pin::pin!(node.client());
    let short = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(short, new.as_mut()).await.is_err(),
        "a frozen postmaster answered"
    );
    node.thaw().unwrap();
    let new = tokio::time::timeout(DEADLINE, new).await.unwrap().unwrap();
    new.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn a_delayed_replica_shows_a_commit_no_earlier_than_that() {
    let cluster = with_a_note(1).await;
    let delay = Duration::from_millis(700);
    cluster.delay_replay(1, delay).await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    let begun = std::time::Instant::now();
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    assert!(begun.elapsed() >= delay, "after {:?}", begun.elapsed());
    assert_eq!(count(&cluster.nodes[1]).await, 2);
    cluster.delay_replay(1, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_is_cut_off_lacks_what_came_after_and_can_be_promoted_without_it() {
    let cluster = with_a_note(2).await;
    cluster.stop_receiving(1).await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    // The one that is cut off follows nobody, so that this waits for the other alone.
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    assert_eq!(count(&cluster.nodes[2]).await, 2);
    assert_eq!(count(&cluster.nodes[1]).await, 1);
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    assert_eq!(count(&cluster.nodes[1]).await, 1, "the tail is lost");
    assert_eq!(count(&cluster.nodes[2]).await, 2, "and a replica has it");
}
