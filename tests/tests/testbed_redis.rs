//! Redis beds: replicas follow, Sentinels fail over.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ha_testbed::redis::{MASTER_NAME, Node, Redis};
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
