//! The same checks for tower-sessions' stores and for ours behind its trait: theirs must fail them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use ha_session::adapter::TowerSessions;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use tower::ServiceExt as _;
use tower_sessions_014::{Session, SessionManagerLayer, SessionStore};

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

/// What a request that reads the user is answered while Redis has lost the session's key, for a moment, to a stale replica or a flush
/// that is being restored: tower-sessions takes the cookie away.
#[tokio::test]
async fn their_layer_takes_the_cookie_away_when_a_key_is_missing_for_a_moment() {
    let bed = RedisBed::start().await;
    let who = async |session: Session| {
        let user: Option<String> = session.get("user").await.unwrap();
        user.unwrap_or_default()
    };
    let store = Arc::new(bed.theirs.clone());
    let id = signed_in(&store).await;
    let app = Router::new()
        .route("/", get(who))
        .layer(SessionManagerLayer::new(bed.theirs.clone()));
    let request = || {
        let request = Request::get("/").header(COOKIE, format!("id={id}"));
        request.body(Body::empty()).unwrap()
    };
    let answer = app.clone().oneshot(request()).await.unwrap();
    assert!(!answer.headers().contains_key(SET_COOKIE));

    let node = &bed.servers.nodes[0];
    let mut rename = ha_db::redis::driver::cmd("RENAME");
    rename.arg(id.to_string()).arg("away");
    node.command::<()>(&rename).await.unwrap();
    let answer = app.clone().oneshot(request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("id=;"), "signed out for good: {cookie}");
}
