//! Redis beds: replicas follow, Sentinels fail over.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ha_testbed::redis::{Cluster, MASTER_NAME, Node, Redis};
use redis::cmd;

const DEADLINE: Duration = Duration::from_secs(60);

async fn set(node: &Node, key: &str, value: &str) -> Result<(), ha_testbed::StartError> {
    node.command(cmd("SET").arg(key).arg(value)).await
}

async fn get(node: &Node, key: &str) -> Option<String> {
    node.command(cmd("GET").arg(key)).await.unwrap()
}

#[tokio::test]
async fn a_single_redis_keeps_its_port_over_a_restart() {
    let redis = Redis::single()
        .setting("appendonly", "yes")
        .start()
        .await
        .unwrap();
    let node = &redis.nodes[0];
    assert_eq!(redis.urls(), [redis.url()]);
    set(node, "a", "1").await.unwrap();
    node.kill().await.unwrap();
    assert!(!node.process.is_running());
    assert!(set(node, "a", "2").await.is_err());
    node.start().await.unwrap();
    assert_eq!(get(node, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_frozen_redis_answers_nothing_and_goes_on_when_thawed() {
    let redis = Redis::single().start().await.unwrap();
    let node = &redis.nodes[0];
    set(node, "a", "1").await.unwrap();
    node.freeze().unwrap();
    assert!(node.process.is_running());
    assert!(set(node, "a", "2").await.is_err());
    node.thaw().unwrap();
    // The frozen command may still be carried out: a client that gave up cannot know.
    assert!(get(node, "a").await.is_some());
}

#[tokio::test]
async fn sentinels_fail_over_when_the_master_is_killed_and_take_it_back_as_a_replica() {
    let started = std::time::Instant::now();
    let redis = Redis::sentinel(3).start().await.unwrap();
    println!("six processes in {:?}", started.elapsed());
    assert!(redis.sentinel_url().ends_with(&format!("/{MASTER_NAME}")));
    let old = redis.master().await.unwrap();
    assert_eq!(old, 0);
    set(&redis.nodes[old], "a", "1").await.unwrap();
    let copies: i64 = redis.nodes[old]
        .command(cmd("WAIT").arg(2).arg(1000))
        .await
        .unwrap();
    assert_eq!(copies, 2);

    redis.nodes[old].kill().await.unwrap();
    let killed = std::time::Instant::now();
    let new = redis.wait_master_other_than(old, DEADLINE).await.unwrap();
    println!("failed over in {:?}", killed.elapsed());
    assert_eq!(get(&redis.nodes[new], "a").await.as_deref(), Some("1"));

    redis.nodes[old].start().await.unwrap();
    redis.nodes[old]
        .process
        .wait_until("a replica of the new master", DEADLINE, async || {
            let info: String = redis.nodes[old]
                .command(cmd("INFO").arg("replication"))
                .await
                .map_err(|error| error.to_string())?;
            let follows = info.contains("role:slave")
                && info.contains(&format!("master_port:{}", redis.nodes[new].port));
            if follows && info.contains("master_link_status:up") {
                Ok(())
            } else {
                Err(info)
            }
        })
        .await
        .unwrap();
    assert_eq!(get(&redis.nodes[old], "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn sentinels_fail_over_when_the_master_is_frozen() {
    let redis = Redis::sentinel(3).start().await.unwrap();
    redis.nodes[0].freeze().unwrap();
    let new = redis.wait_master_other_than(0, DEADLINE).await.unwrap();
    redis.nodes[0].thaw().unwrap();
    assert_ne!(new, 0);
    assert_eq!(redis.master().await.unwrap(), new);
}

/// Keys of slot 12182, that of `{foo}`.
const SLOT: u16 = 12_182;

async fn fill(cluster: &Cluster, owner: usize, keys: usize) {
    for i in 0..keys {
        set(&cluster.nodes[owner], &format!("{{foo}}{i}"), "1")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_cluster_moves_a_slot_with_its_keys() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let from = cluster.owner(SLOT).await.unwrap();
    fill(&cluster, from, 5).await;
    let to = (from + 1) % 3;
    assert_eq!(cluster.begin_migration(SLOT, to).await.unwrap(), from);
    assert_eq!(cluster.move_keys(SLOT, from, to, 2).await.unwrap(), 2);
    // Half way the old owner sends those who ask for a moved key on, and keeps the rest.
    let keys = async |node: usize| -> Vec<String> {
        let mut keys = cmd("CLUSTER");
        keys.arg("GETKEYSINSLOT").arg(SLOT).arg(100);
        cluster.nodes[node].command(&keys).await.unwrap()
    };
    let moved = keys(to).await;
    assert_eq!((moved.len(), keys(from).await.len()), (2, 3));
    let asked = cluster.nodes[from]
        .command::<String>(cmd("GET").arg(&moved[0]))
        .await
        .unwrap_err();
    assert!(format!("{asked:?}").contains("Ask"), "{asked:?}");
    cluster.migrate_slot(SLOT, to).await.unwrap();
    assert_eq!(cluster.owner(SLOT).await.unwrap(), to);
    assert_eq!((keys(to).await.len(), keys(from).await.len()), (5, 0));
    assert!(get(&cluster.nodes[to], "{foo}0").await.is_some());
}

#[tokio::test]
async fn a_cluster_fails_over_when_a_master_is_killed_and_on_request() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let first = cluster.owner(SLOT).await.unwrap();
    fill(&cluster, first, 1).await;
    let replica = cluster.replicas_of(first).await.unwrap()[0];
    cluster.failover_to(replica).await.unwrap();
    let second = cluster
        .wait_owner_other_than(SLOT, first, DEADLINE)
        .await
        .unwrap();
    assert_eq!(second, replica);
    assert!(get(&cluster.nodes[second], "{foo}0").await.is_some());

    cluster.nodes[second].kill().await.unwrap();
    let third = cluster
        .wait_owner_other_than(SLOT, second, DEADLINE)
        .await
        .unwrap();
    assert_eq!(third, first);
    assert!(get(&cluster.nodes[third], "{foo}0").await.is_some());
    cluster.wait_cluster_ok(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn with_acl_and_tls_everything_still_replicates_and_fails_over() {
    let redis = Redis::sentinel(3)
        .tls()
        .acl("app", "app-secret")
        .sentinel_acl("watch", "watch-secret")
        .start()
        .await
        .unwrap();
    let node = &redis.nodes[0];
    assert_ne!(node.announced(), node.addr());
    assert!(redis.ca().unwrap().starts_with(b"-----BEGIN CERTIFICATE"));
    set(node, "a", "1").await.unwrap();
    let stranger = redis::Client::open(node.url()).unwrap();
    let mut stranger = stranger.get_multiplexed_async_connection().await.unwrap();
    let refused = cmd("GET").arg("a").exec_async(&mut stranger).await;
    assert_eq!(refused.unwrap_err().code(), Some("NOAUTH"));
    node.kill().await.unwrap();
    let new = redis.wait_master_other_than(0, DEADLINE).await.unwrap();
    assert_ne!(new, 0);
}

#[tokio::test]
async fn a_cluster_with_tls_and_acl_is_ok_and_moves_slots() {
    let cluster = Redis::cluster(6)
        .tls()
        .acl("app", "app-secret")
        .start()
        .await
        .unwrap();
    let from = cluster.owner(SLOT).await.unwrap();
    fill(&cluster, from, 2).await;
    cluster.migrate_slot(SLOT, (from + 1) % 3).await.unwrap();
    let to = cluster.owner(SLOT).await.unwrap();
    assert_eq!(to, (from + 1) % 3);
    assert!(get(&cluster.nodes[to], "{foo}1").await.is_some());
}
