//! Cookies, keys and settings.

use std::time::Duration;

use axum::body::Body;
use ha_core::sign::{Key, KeyRing};
use ha_session::{CookieConfig, MemoryStore, SessionLayer};
use http::header::SET_COOKIE;
use http::{Request, StatusCode};
use tower::ServiceExt;

use crate::support::{Client, Probe, body, keys, routes};

#[tokio::test]
async fn cookies_that_are_not_ours_count_as_no_session() {
    let store = Probe::default();
    let mut other = Client::with(routes(), SessionLayer::new(store.clone(), keys(2)));
    other.text("/set/user/eve").await;
    let foreign = other.cookie.clone().unwrap();
    let before = store.counts();
    for bad in [
        foreign.as_str(),
        "",
        "garbage",
        "%%%",
        &foreign[..50],
        "a=b;c",
    ] {
        let mut client = Client::new(store.clone());
        client.cookie = Some(bad.to_owned());
        let answer = client.send("/get/user").await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert_eq!(body(answer).await, "nothing", "{bad}");
    }
    assert_eq!(store.counts(), before, "the store was not asked");
}

#[tokio::test]
async fn a_new_key_reads_the_cookies_of_the_old_one() {
    let store = MemoryStore::new();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    let both = KeyRing::new(
        Key::from_bytes(&[2; 32]).unwrap(),
        [Key::from_bytes(&[1; 32]).unwrap()],
    );
    client.app = routes().layer(SessionLayer::new(store.clone(), both));
    assert_eq!(client.text("/get/user").await, "ann");
    let before = client.cookie.clone();
    client.text("/set/x/1").await;
    let renewed = client.cookie.clone();
    assert_ne!(renewed, before, "with the next commit it is the new key's");
    client.text("/set/x/2").await;
    assert_eq!(client.cookie, renewed, "and is sent once");
    client.app = routes().layer(SessionLayer::new(store, keys(2)));
    assert_eq!(client.text("/get/user").await, "ann", "without the old key");
}

#[tokio::test]
async fn without_the_layer_the_extractor_says_so() {
    let app = routes();
    let request = Request::get("/get/x").body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body(answer).await.contains("no session layer"));
}

#[test]
fn refused_settings_are_named() {
    let builder = || SessionLayer::builder(MemoryStore::new(), keys(1));
    for (error, name) in [
        (builder().max_value(0).build().unwrap_err(), "max_value"),
        (builder().max_session(0).build().unwrap_err(), "max_session"),
        (
            builder().store_timeout(Duration::ZERO).build().unwrap_err(),
            "store_timeout",
        ),
        (
            builder()
                .cookie(CookieConfig::new("__Host-x"))
                .build()
                .unwrap_err(),
            "__Host-x",
        ),
    ] {
        assert!(error.to_string().contains(name), "{error}");
    }
    let plain = SessionLayer::new(MemoryStore::new(), keys(1)).insecure_localhost();
    assert_eq!(plain.cookie_name(), "id");
}
