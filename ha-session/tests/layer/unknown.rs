//! A store that cannot say.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_session::SessionLayer;
use tower::ServiceExt;

use crate::support::{Client, Probe, assert_unavailable, keys, routes};

#[tokio::test]
async fn unknown_answers_503_and_never_clears_the_cookie() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    let cookie = client.cookie.clone();
    for broken in [&store.down, &store.future_format] {
        broken.store(true, Ordering::SeqCst);
        assert_unavailable(client.send("/get/user").await).await;
        // A handler that turns the error into "nobody" would greet a signed-in user as a stranger.
        assert_unavailable(client.send("/swallow").await).await;
        assert_unavailable(client.send("/set/user/bob").await).await;
        assert_unavailable(client.send("/sign-out").await).await;
        assert_eq!(client.text("/plain").await, "plain");
        broken.store(false, Ordering::SeqCst);
        assert_eq!(client.cookie, cookie);
        assert_eq!(client.text("/get/user").await, "ann");
    }
}

#[tokio::test]
async fn an_app_may_choose_to_answer_without_knowing_the_session() {
    let store = Probe::default();
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .pass_unknown(true)
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    store.down.store(true, Ordering::SeqCst);
    assert_eq!(client.text("/swallow").await, "hello None");
    assert_unavailable(client.send("/set/user/bob").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_after_its_deadline() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    store.hung.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/get/user").await).await;
    assert_unavailable(client.send("/set/user/bob").await).await;
}

#[tokio::test]
async fn a_commit_that_fails_replaces_the_answer_of_the_handler() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    store.down.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/set/user/ann").await).await;
    assert_eq!(client.cookie, None, "no cookie for what is not stored");
}

#[tokio::test]
async fn a_request_dropped_in_its_commit_has_stored_all_or_nothing() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    store.hung.store(true, Ordering::SeqCst);
    let request = client.app.clone().oneshot(client.request("/sign-in/bob"));
    let dropped = tokio::time::timeout(Duration::from_millis(20), request).await;
    assert!(dropped.is_err());
    store.hung.store(false, Ordering::SeqCst);
    assert_eq!(client.text("/get/user").await, "ann");
}
