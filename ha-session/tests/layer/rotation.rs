//! Ids that are rotated, planted and ended.

use std::sync::Arc;
use std::time::Duration;

use ha_session::{MemoryStore, SessionLayer};
use http::StatusCode;
use http::header::SET_COOKIE;
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::support::{Client, keys, slow_routes};

#[tokio::test]
async fn a_planted_id_gains_nothing_of_the_session_that_signs_in() {
    let store = MemoryStore::new();
    let mut mallory = Client::new(store.clone());
    mallory.text("/set/cart/1").await;
    let mut victim = mallory.clone();
    victim.text("/sign-in/ann").await;
    assert_ne!(victim.cookie, mallory.cookie);
    assert_eq!(victim.text("/get/user").await, "ann");
    assert_eq!(victim.text("/get/cart").await, "1");
    assert_eq!(mallory.text("/get/user").await, "nothing");
    let answer = mallory.send("/set/user/eve").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(victim.text("/get/user").await, "ann");
}

/// The control: without the rotation the planted id would be signed in.
#[tokio::test]
async fn without_rotation_a_planted_id_is_signed_in() {
    let mut mallory = Client::new(MemoryStore::new());
    mallory.text("/set/cart/1").await;
    let mut victim = mallory.clone();
    victim.text("/set/user/ann").await;
    assert_eq!(mallory.text("/get/user").await, "ann");
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_a_rotated_id_is_no_session() {
    let store = MemoryStore::new();
    let mut old = Client::new(store);
    old.text("/set/cart/1").await;
    let mut new = old.clone();
    new.text("/sign-in/ann").await;
    assert_eq!(old.text("/get/cart").await, "1");
    tokio::time::advance(ha_session::ROTATION_GRACE).await;
    assert_eq!(old.text("/get/cart").await, "nothing");
    assert!(
        old.cookie.is_some(),
        "a late answer must not take the new cookie away"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    old.text("/set/cart/2").await;
    assert_eq!(
        new.text("/get/cart").await,
        "1",
        "another session was started"
    );
}

/// Two requests of one browser: one that writes and one that signs in. The answer to the first arrives last.
#[tokio::test(start_paused = true)]
async fn a_late_answer_puts_no_id_back_that_was_rotated_away() {
    let mut client = Client::new(MemoryStore::new());
    client.text("/set/cart/1").await;
    let mut answers = Vec::new();
    for path in ["/set/cart/2", "/sign-in/ann"] {
        let request = client.request(path);
        answers.push(client.app.clone().oneshot(request).await.unwrap());
    }
    for answer in answers.iter().rev() {
        client.take_cookie(answer);
    }
    tokio::time::advance(2 * ha_session::ROTATION_GRACE).await;
    assert_eq!(client.text("/get/user").await, "ann");
    assert_eq!(client.text("/get/cart").await, "2");
}

#[tokio::test]
async fn a_slow_request_after_sign_out_brings_nothing_back_and_is_told() {
    for mode in ["read", "blind"] {
        let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let store = MemoryStore::new();
        let layer = SessionLayer::new(store.clone(), keys(1));
        let routes = slow_routes(Arc::clone(&gate), Arc::clone(&arrived));
        let mut client = Client::with(routes, layer);
        client.text("/sign-in/ann").await;
        let mut stolen = client.clone();

        let slow = client
            .app
            .clone()
            .oneshot(client.request(&format!("/slow/{mode}")));
        let slow = tokio::spawn(slow);
        arrived.notified().await;
        client.text("/sign-out").await;
        assert_eq!(client.cookie, None);
        gate.notify_one();
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT, "{mode}");
        assert!(!answer.headers().contains_key(SET_COOKIE));

        assert_eq!(stolen.text("/get/user").await, "nothing");
        assert_eq!(stolen.text("/get/slow").await, "nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_begins_after_the_end_starts_a_new_session() {
    let store = MemoryStore::new();
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;
    let mut other = client.clone();
    client.text("/sign-out").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let old = other.cookie.clone();
    other.text("/set/cart/1").await;
    assert_ne!(other.cookie, old, "a new id");
    assert_eq!(other.text("/get/cart").await, "1");
    assert_eq!(other.text("/get/user").await, "nothing");
}
