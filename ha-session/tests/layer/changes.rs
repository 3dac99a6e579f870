//! Changes that meet, and changes that are too large.

use std::sync::Arc;

use ha_session::{MemoryStore, OnConflict, SessionLayer};
use http::StatusCode;
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::support::{Client, body, keys, routes, slow_routes};

#[tokio::test]
async fn a_hundred_requests_on_different_names_all_merge() {
    let mut client = Client::new(MemoryStore::new());
    client.text("/set/user/ann").await;
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..100 {
        let mut client = client.clone();
        requests.spawn(async move { client.text(&format!("/set/n{n}/{n}")).await });
    }
    requests.join_all().await;
    for n in 0..100 {
        assert_eq!(client.text(&format!("/get/n{n}")).await, n.to_string());
    }
}

#[tokio::test]
async fn the_policy_decides_who_wins_a_name() {
    for (policy, status, value) in [
        (OnConflict::LastWriter, StatusCode::OK, "late"),
        (OnConflict::Refuse, StatusCode::CONFLICT, "early"),
    ] {
        let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let layer = SessionLayer::builder(MemoryStore::new(), keys(1))
            .on_conflict(policy)
            .build()
            .unwrap();
        let routes = slow_routes(Arc::clone(&gate), Arc::clone(&arrived));
        let mut client = Client::with(routes, layer);
        client.text("/sign-in/ann").await;
        let slow = tokio::spawn(client.app.clone().oneshot(client.request("/slow/read")));
        arrived.notified().await;
        client.text("/set/slow/early").await;
        gate.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().status(), status, "{policy:?}");
        assert_eq!(client.text("/get/slow").await, value, "{policy:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name_and_size() {
    let layer = SessionLayer::builder(MemoryStore::new(), keys(1))
        .max_value(100)
        .max_session(150)
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    let answer = client.send(&format!("/set/big/{}", "x".repeat(200))).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let text = body(answer).await;
    assert!(
        text.contains("big") && text.contains("203") && text.contains("100"),
        "{text}"
    );

    client.text(&format!("/set/a/{}", "x".repeat(80))).await;
    let answer = client.send(&format!("/set/b/{}", "x".repeat(80))).await;
    assert_eq!(
        answer.status(),
        StatusCode::PAYLOAD_TOO_LARGE,
        "written without reading"
    );
    let text = body(answer).await;
    assert!(text.contains("\\\"b\\\"") && text.contains("150"), "{text}");
    assert_eq!(client.text("/get/b").await, "nothing");
}
