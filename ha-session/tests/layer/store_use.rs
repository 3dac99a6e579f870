//! How often the store is asked, and for what.

use std::time::Duration;

use axum::routing::get;
use ha_session::{Expiry, MemoryStore, Session, SessionLayer};
use http::StatusCode;
use http::header::{CACHE_CONTROL, SET_COOKIE, VARY};

use crate::support::{Answer, Client, Probe, body, keys, routes};

#[tokio::test]
async fn a_request_without_a_cookie_never_asks_the_store() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    assert_eq!(client.text("/plain").await, "plain");
    assert_eq!(client.text("/get/user").await, "nothing");
    let answer = client.send("/sign-out").await;
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(store.counts(), (0, 0, 0));
}

#[tokio::test]
async fn an_untouched_session_costs_nothing_and_a_read_one_writes_nothing() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    assert_eq!(store.counts(), (0, 1, 0), "written without reading");

    let answer = client.send("/plain").await;
    assert!(!answer.headers().contains_key(VARY));
    assert_eq!(store.counts(), (0, 1, 0));

    let answer = client.send("/get/user").await;
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(answer.headers()[VARY], "cookie");
    assert_eq!(answer.headers()[CACHE_CONTROL], "private, no-store");
    assert_eq!(body(answer).await, "ann");
    assert_eq!(store.counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn reading_extends_the_session_once_a_tenth_of_the_window_has_passed() {
    let store = Probe::default();
    let hour = Duration::from_secs(3600);
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .expiry(Expiry::new(hour, 10 * hour).unwrap())
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    tokio::time::advance(hour / 20).await;
    client.text("/get/user").await;
    assert_eq!(store.counts().2, 0);
    for _ in 0..4 {
        tokio::time::advance(hour / 2).await;
        let answer = client.send("/get/user").await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert_eq!(body(answer).await, "ann");
    }
    assert_eq!(store.counts().2, 4);
    tokio::time::advance(hour).await;
    assert_eq!(client.text("/get/user").await, "nothing");
}

#[tokio::test(start_paused = true)]
async fn no_use_lengthens_a_session_past_its_absolute_end() {
    let hour = Duration::from_secs(3600);
    let layer = SessionLayer::builder(MemoryStore::new(), keys(1))
        .expiry(Expiry::new(hour, 2 * hour).unwrap())
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    for _ in 0..3 {
        tokio::time::advance(hour / 2).await;
        assert_eq!(client.text("/get/user").await, "ann");
    }
    tokio::time::advance(hour / 2).await;
    assert_eq!(client.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn a_full_memory_store_refuses_new_sessions_and_keeps_the_old() {
    let store = MemoryStore::with_max(1);
    let mut first = Client::new(store.clone());
    first.text("/set/user/ann").await;
    let mut second = Client::new(store);
    let answer = second.send("/set/user/bob").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    first.text("/set/user/eve").await;
    assert_eq!(first.text("/get/user").await, "eve");
}

/// What a socket does that was opened by a handler which wrote.
#[tokio::test(start_paused = true)]
async fn a_handle_that_wrote_extends_the_session_whenever_it_is_refreshed() {
    let hour = Duration::from_secs(3600);
    let store = Probe::default();
    let (sender, mut handles) = tokio::sync::mpsc::channel(1);
    let open = async move |session: Session| -> Answer<&'static str> {
        session.insert("socket", "open")?;
        sender.try_send(session).unwrap();
        Ok("open")
    };
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .expiry(Expiry::new(hour, 10 * hour).unwrap())
        .build()
        .unwrap();
    let mut client = Client::with(routes().route("/open", get(open)), layer);
    client.text("/open").await;
    let socket = handles.recv().await.unwrap();
    for _ in 0..4 {
        tokio::time::advance(hour / 2).await;
        assert!(socket.refresh().await.unwrap());
    }
    assert_eq!(client.text("/get/socket").await, "open");
}
