//! Sessions in a real PostgreSQL.

use std::time::Duration;

use crate::contract;
use crate::support::{
    Client, DEADLINE, eventually, lost_in_a_merge, planted_id_is_signed_in,
    slow_request_after_sign_out,
};
use ha_db::postgres::Router;
use ha_session::{MigrateError, PostgresStore};
use ha_testbed::postgres::{Cluster, Postgres};
use http::StatusCode;
use tokio::task::JoinSet;

async fn bed(replicas: usize) -> (Cluster, Router) {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    let mut builder = Router::builder().write_wait(Duration::from_millis(500));
    for node in &cluster.nodes {
        builder = builder.node(node.name.clone(), node.conninfo());
    }
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    (cluster, router)
}

pub(crate) async fn migrated(replicas: usize) -> (Cluster, PostgresStore) {
    let (cluster, router) = bed(replicas).await;
    let store = PostgresStore::new(router);
    store.migrate().await.unwrap();
    (cluster, store)
}

#[tokio::test]
async fn the_function_follows_the_same_rules_as_memory() {
    let (_cluster, store) = migrated(0).await;
    for seed in 0..6 {
        contract::same_as_memory(store.clone(), seed, 200).await;
    }
    contract::expires(store).await;
}

#[tokio::test]
async fn requests_merge_sign_out_is_final_and_planted_ids_gain_nothing() {
    let (_cluster, store) = migrated(0).await;
    assert_eq!(lost_in_a_merge(store.clone()).await, 0);
    assert_eq!(
        slow_request_after_sign_out(store.clone()).await,
        (StatusCode::CONFLICT, false)
    );
    assert!(!planted_id_is_signed_in(store).await);
}

#[tokio::test]
async fn many_nodes_migrate_at_once_and_a_newer_schema_is_refused() {
    let (cluster, router) = bed(0).await;
    let mut nodes = JoinSet::new();
    for _ in 0..8 {
        let store = PostgresStore::new(router.clone());
        nodes.spawn(async move { store.migrate().await });
    }
    for result in nodes.join_all().await {
        result.unwrap();
    }
    let store = PostgresStore::new(router);
    let mut client = Client::new(store.clone());
    client.text("/sign-in/ann").await;
    store.migrate().await.unwrap();
    assert_eq!(client.text("/get/user").await, "ann");

    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("insert into ha_session_schema values (99)")
        .await
        .unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(
        matches!(error, MigrateError::Newer { found: 99, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_future_format_is_unknown_and_not_an_empty_session() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store);
    client.text("/set/user/ann").await;
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("update ha_session set format = 9")
        .await
        .unwrap();
    client.assert_unknown("/get/user").await;
    client.assert_unknown("/set/user/bob").await;
    admin
        .batch_execute("update ha_session set format = 1")
        .await
        .unwrap();
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn a_sign_out_ends_a_session_of_a_future_format_too() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;
    let mut copy = client.clone();
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("update ha_session set format = 9")
        .await
        .unwrap();
    client.text("/sign-out").await;
    assert_eq!(copy.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn only_sessions_long_gone_are_purged() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store.clone());
    client.text("/sign-in/ann").await;
    for user in ["bob", "eve", "joe"] {
        let mut other = Client::new(store.clone());
        other.text(&format!("/sign-in/{user}")).await;
        other.text("/sign-out").await;
    }
    assert_eq!(store.purge(100).await.unwrap(), 0, "their ends are fresh");
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute(
            "update ha_session set idle_until = now() - interval '2 hours' where state = 2",
        )
        .await
        .unwrap();
    assert_eq!(store.purge(2).await.unwrap(), 2, "in batches");
    assert_eq!(store.purge(2).await.unwrap(), 1);
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn without_a_primary_a_replica_answers_what_it_can_prove_and_nothing_else() {
    let (cluster, store) = migrated(1).await;
    let mut ann = Client::new(store.clone());
    ann.text("/sign-in/ann").await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.pause_replay(1).await.unwrap();
    let mut before = ann.clone();
    ann.text("/set/note/new").await;
    let mut late = Client::new(store);
    late.text("/sign-in/late").await;

    cluster.nodes[0].kill().await.unwrap();
    assert_eq!(
        before.patient("/get/user").await,
        "ann",
        "told nothing that the replica lacks"
    );
    ann.assert_unknown("/get/user").await;
    late.assert_unknown("/get/user").await;
    before.assert_unknown("/set/note/x").await;

    cluster.resume_replay(1).await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the new primary answers", async || {
        before.send("/get/user").await == (StatusCode::OK, "ann".into())
    })
    .await;
    before.patient("/set/note/after").await;
    assert_eq!(before.patient("/get/note").await, "after");
}
