//! An id that was rotated away does not live on in Redis, whatever happens at the same time; and how long a copy is trusted while
//! PostgreSQL cannot be asked.

use std::time::Duration;

use ha_db::redis::driver;
use ha_session::{Commit, Expiry, Gone, Load, Outcome, Patch, SessionKey, Store, Tiered, Version};
use tokio::time::Instant;

use crate::support::eventually;
use crate::tiered::Bed;

const HOUR: Duration = Duration::from_secs(3600);
const OLD: SessionKey = SessionKey::from_parts([7, 7], [1; 32]);
const NEW: SessionKey = SessionKey::from_parts([7, 7], [2; 32]);

fn expiry() -> Expiry {
    Expiry::new(HOUR, HOUR).unwrap()
}

fn patch(name: &str) -> Patch {
    let mut patch = Patch::new();
    patch.set(name, &b"1"[..]);
    patch
}

async fn committed(store: &Tiered, commit: Commit) -> Version {
    match store.commit(commit).await.unwrap() {
        Outcome::Committed(record) => record.version,
        other => panic!("{other:?}"),
    }
}

async fn start(store: &Tiered) -> Version {
    committed(store, Commit::create(OLD, patch("cart"), expiry(), 1000)).await
}

async fn rotate(store: &Tiered) {
    let mut commit = Commit::update(OLD, patch("user"), expiry(), 1000);
    commit.rotate_to = Some(NEW);
    committed(store, commit).await;
}

/// Whether the old id is taken for that of a live session.
async fn old_is_live(store: &Tiered) -> bool {
    let load = store.load(OLD, Version::ZERO).await;
    matches!(load, Load::Found(record) if !record.superseded)
}

/// A read finds the session in PostgreSQL before it is rotated, and keeps it in Redis afterwards.
#[tokio::test]
async fn a_copy_that_comes_late_is_not_kept() {
    let bed = Bed::single().await;
    let store = bed.store.clone().recheck(HOUR);
    let version = start(&store).await;
    rotate(&store).await;

    let prelude = include_str!("../../../ha-session/src/store/redis/prelude.lua");
    let put = include_str!("../../../ha-session/src/store/redis/put.lua");
    let put = driver::Script::new(&[prelude, put].concat());
    let mut late = put.key(format!("ha:session:{{0707}}:{OLD}"));
    late.arg(version.get()).arg(3_600_000).arg(3_600_000);
    late.arg(3_600_000)
        .arg("")
        .arg(0)
        .arg("")
        .arg(0)
        .arg(3_600_000);
    let _: Vec<String> = bed.connection.script(&late).await.unwrap();

    assert!(!old_is_live(&store).await);
    bed.postgres.nodes[0].kill().await.unwrap();
    assert!(!old_is_live(&store).await, "in an outage");
}

#[tokio::test]
async fn a_rotation_that_redis_missed_is_made_up_for() {
    let bed = Bed::single().await;
    // Only what Redis is told can end the copy: it is trusted for an hour.
    let store = bed.store.clone().recheck(HOUR);
    start(&store).await;
    assert!(old_is_live(&store).await);
    bed.redis.nodes[0].freeze().unwrap();
    rotate(&store).await;
    bed.redis.nodes[0].thaw().unwrap();
    eventually("redis is told", async || !old_is_live(&store).await).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_old_copy_is_told_once_it_is_checked() {
    let bed = Bed::single().await;
    let store = bed.store.clone().recheck(Duration::ZERO);
    start(&store).await;
    let before = bed.snapshot().await;
    rotate(&store).await;
    bed.put_back(&before).await;
    eventually("it is found out", async || !old_is_live(&store).await).await;
    // It stays found out, and a write under it as well.
    bed.postgres.nodes[0].kill().await.unwrap();
    assert!(!old_is_live(&store).await);
    bed.postgres.nodes[0].start().await.unwrap();
    bed.put_back(&before).await;
    eventually("a write is refused", async || {
        let commit = Commit::update(OLD, patch("late"), expiry(), 1000);
        match store.commit(commit).await {
            Ok(Outcome::Superseded | Outcome::Gone(Gone { .. })) => true,
            Ok(other) => panic!("{other:?}"),
            Err(_) => false,
        }
    })
    .await;
    bed.postgres.nodes[0].kill().await.unwrap();
    assert!(!old_is_live(&store).await);
}

#[tokio::test]
async fn a_copy_is_trusted_in_an_outage_for_as_long_as_it_was_said() {
    let bed = Bed::single().await;
    let limit = Duration::from_secs(2);
    let bounded = bed.store.clone().recheck(Duration::ZERO);
    let bounded = bounded.trust_during_outage(limit);
    let endless = bed.store.clone().recheck(Duration::ZERO);
    start(&bounded).await;
    let begun = Instant::now();
    bed.postgres.nodes[0].kill().await.unwrap();
    assert!(old_is_live(&endless).await);
    eventually("the copy is too old", async || !old_is_live(&bounded).await).await;
    assert!(begun.elapsed() + Duration::from_millis(500) > limit);
    let load = bounded.load(OLD, Version::ZERO).await;
    assert!(matches!(load, Load::Unknown(_)), "not gone: {load:?}");
    assert!(old_is_live(&endless).await);
    bed.postgres.nodes[0].start().await.unwrap();
    eventually("it is known again", async || old_is_live(&bounded).await).await;
}
