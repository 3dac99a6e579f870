//! The same checks for tower-sessions' stores and for ours behind its trait: theirs must fail them.

use std::sync::Arc;

use ha_session::adapter::TowerSessions;
use tower_sessions_014::SessionStore;

use crate::bed::{PostgresBed, RedisBed, session, signed_in, text};

const REQUESTS: usize = 20;

/// How many of some concurrent changes of different names are lost.
async fn lost(store: Arc<impl SessionStore>) -> usize {
    let id = signed_in(&store).await;
    let sessions: Vec<_> = (0..REQUESTS).map(|_| session(Some(id), &store)).collect();
    for (n, session) in sessions.iter().enumerate() {
        session.insert(&format!("n{n}"), n).await.unwrap();
    }
    let saves = sessions.iter().map(|session| session.save());
    for saved in futures_util::future::join_all(saves).await {
        saved.unwrap();
    }
    let after = session(Some(id), &store);
    let mut lost = 0;
    for n in 0..REQUESTS {
        let found: Option<usize> = after.get(&format!("n{n}")).await.unwrap();
        lost += usize::from(found.is_none());
    }
    lost
}

/// Whether a session is back after a request that began before its end has saved.
async fn is_back(store: Arc<impl SessionStore>) -> bool {
    let id = signed_in(&store).await;
    let slow = session(Some(id), &store);
    slow.insert("slow", "late").await.unwrap();
    session(Some(id), &store).flush().await.unwrap();
    let told = slow.save().await.is_err();
    let back = text(&store, id, "user").await.is_some();
    assert!(
        told != back,
        "either it is told, or it brings the session back"
    );
    back
}

#[tokio::test]
async fn in_redis_their_store_loses_updates_and_ours_does_not() {
    let bed = RedisBed::start().await;
    let ours = TowerSessions::new(bed.ours());
    assert_eq!(lost(Arc::new(ours.clone())).await, 0);
    assert!(!is_back(Arc::new(ours)).await);
    assert_eq!(lost(Arc::new(bed.theirs)).await, REQUESTS - 1);
}

#[tokio::test]
async fn in_postgresql_their_store_loses_updates_and_brings_ended_sessions_back() {
    let bed = PostgresBed::start().await;
    let ours = TowerSessions::new(bed.ours());
    assert_eq!(lost(Arc::new(ours.clone())).await, 0);
    assert!(!is_back(Arc::new(ours)).await);
    let theirs = Arc::new(bed.theirs);
    assert_eq!(lost(Arc::clone(&theirs)).await, REQUESTS - 1);
    assert!(is_back(theirs).await);
}
