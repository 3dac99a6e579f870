//! Patroni beds: automatic failover, and no acknowledged write lost by it.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ha_testbed::StartError;
use ha_testbed::patroni::{Cluster, Patroni};

const DEADLINE: Duration = Duration::from_secs(120);

async fn started() -> (Cluster, usize) {
    let begun = Instant::now();
    let cluster = Patroni::cluster(3).start().await.unwrap();
    println!("three members in {:?}", begun.elapsed());
    let leader = cluster.wait_leader(DEADLINE).await.unwrap();
    let client = cluster.nodes[leader].client().await.unwrap();
    client
        .batch_execute("create table note (id int); insert into note values (1)")
        .await
        .unwrap();
    (cluster, leader)
}

async fn notes(cluster: &Cluster, index: usize) -> i64 {
    let client = cluster.nodes[index].client().await.unwrap();
    client
        .query_one("select count(*) from note", &[])
        .await
        .unwrap()
        .get(0)
}

/// A replica shows what it streams a moment later.
async fn shows(cluster: &Cluster, index: usize, count: i64) {
    let end = Instant::now() + DEADLINE;
    loop {
        let seen = notes(cluster, index).await;
        if seen == count {
            return;
        }
        assert!(Instant::now() < end, "{seen} notes instead of {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_leader_is_replaced_and_comes_back_as_a_replica() {
    let (cluster, old) = started().await;
    cluster.kill_node(old).await.unwrap();
    assert!(cluster.nodes[old].client().await.is_err());
    let killed = Instant::now();
    let new = cluster.wait_leader_other_than(old, DEADLINE).await.unwrap();
    println!("failed over in {:?}", killed.elapsed());
    shows(&cluster, new, 1).await;
    cluster.start_node(old).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    shows(&cluster, old, 1).await;
}

#[tokio::test]
async fn a_frozen_leader_is_replaced_and_gives_way_when_it_thaws() {
    let (cluster, old) = started().await;
    cluster.freeze_node(old).unwrap();
    let new = cluster.wait_leader_other_than(old, DEADLINE).await.unwrap();
    let client = cluster.nodes[new].client().await.unwrap();
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    cluster.thaw_node(old).unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert_eq!(cluster.leader().await, Some(new));
    shows(&cluster, old, 2).await;
}

#[tokio::test]
async fn a_killed_postgres_or_patroni_alone_is_survived() {
    let (cluster, old) = started().await;
    cluster.kill_postgres(old).await.unwrap();
    assert!(cluster.nodes[old].process.is_running());
    let new = cluster.wait_leader_other_than(old, DEADLINE).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();

    cluster.kill_patroni(new).unwrap();
    assert!(
        cluster.nodes[new].client().await.is_ok(),
        "PostgreSQL goes on without Patroni"
    );
    let newest = cluster.wait_leader_other_than(new, DEADLINE).await.unwrap();
    shows(&cluster, newest, 1).await;
    cluster.start_node(new).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn writes_go_on_without_etcd() {
    let (cluster, leader) = started().await;
    cluster.etcd.kill().await.unwrap();
    // Longer than the time after which a leader without the failsafe gives up.
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        let client = cluster.nodes[leader].client().await.unwrap();
        client
            .batch_execute("insert into note values (2)")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.etcd.start().unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert_eq!(cluster.leader().await, Some(leader));
}

#[tokio::test]
async fn the_service_s_user_sees_replication_and_is_no_superuser() {
    let (cluster, leader) = started().await;
    let conninfo = cluster.nodes[leader].app_conninfo();
    let app = ha_testbed::postgres::Client::connect("app", &conninfo)
        .await
        .unwrap();
    app.batch_execute("create table mine (id int)")
        .await
        .unwrap();
    let row = app
        .query_one(
            "select (select count(*) from pg_stat_replication where flush_lsn is not null), \
             pg_read_file('global/pg_control', 0, 0), current_setting('is_superuser')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
    assert_eq!(row.get::<_, String>(2), "off");
}

#[tokio::test]
async fn a_node_that_gives_up_during_the_start_ends_it_with_the_log() {
    let broken = Patroni::cluster(2).setting("shared_preload_libraries", "no_such_library");
    let patience = DEADLINE / 2;
    let error = tokio::time::timeout(patience, broken.start())
        .await
        .expect("the start notices that a node has ended")
        .unwrap_err();
    assert!(matches!(error, StartError::Exited { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("patroni-") && text.contains("Failed to bootstrap cluster"),
        "{text}"
    );
}

#[tokio::test]
async fn a_switchover_hands_over_to_a_replica_that_has_everything() {
    let (cluster, old) = started().await;
    let new = cluster.switchover(DEADLINE).await.unwrap();
    assert_ne!(new, old);
    let client = cluster.nodes[new].client().await.unwrap();
    let row = client.query_one("select count(*) from note", &[]).await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 1);
    client
        .batch_execute("insert into note values (2)")
        .await
        .unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert_eq!(cluster.leader().await, Some(new));
}
