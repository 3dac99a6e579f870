//! Two requests that change the same value, by the policy of its name.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use ha_session::{ConfigError, MemoryStore, OnConflict, Session, SessionLayer};
use http::StatusCode;
use tokio::sync::Notify;
use tower::ServiceExt as _;

use crate::support::{Answer, Client, keys, routes};

/// An app in which one request reads, waits, and then writes a value of each policy.
fn app(arrived: &Arc<Notify>, gate: &Arc<Notify>, writes: &'static [&'static str]) -> Client {
    let (arrived, gate) = (Arc::clone(arrived), Arc::clone(gate));
    let slow = async move |session: Session| -> Answer<&'static str> {
        let _: Option<String> = session.get("any").await?;
        arrived.notify_one();
        gate.notified().await;
        for name in writes {
            session.insert(name, "late")?;
        }
        Ok("written")
    };
    let layer = SessionLayer::builder(MemoryStore::new(), keys(1))
        .on_conflict_of("step", OnConflict::Refuse)
        .on_conflict_of("group", OnConflict::FirstWriter)
        .build()
        .unwrap();
    let routes: Router = routes().route("/late", get(slow));
    Client::with(routes, layer)
}

/// What the slow request is answered, and what is stored under each name afterwards, when somebody else changes `meanwhile`.
async fn outcome(writes: &'static [&'static str], meanwhile: &str) -> (StatusCode, [String; 3]) {
    let (arrived, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut client = app(&arrived, &gate, writes);
    client.text("/set/cart/1").await;
    let slow = client.app.clone().oneshot(client.request("/late"));
    let slow = tokio::spawn(slow);
    arrived.notified().await;
    client.text(&format!("/set/{meanwhile}/early")).await;
    gate.notify_one();
    let status = slow.await.unwrap().unwrap().status();
    let mut held = Vec::new();
    for name in ["note", "group", "step"] {
        held.push(client.text(&format!("/get/{name}")).await);
    }
    (status, held.try_into().unwrap())
}

#[tokio::test]
async fn each_name_has_a_policy_of_its_own() {
    const ALL: &[&str] = &["note", "group", "step"];
    let of = |texts: [&str; 3]| texts.map(str::to_owned);
    for (meanwhile, status, held) in [
        ("note", StatusCode::OK, ["late", "late", "late"]),
        ("group", StatusCode::OK, ["late", "early", "late"]),
        (
            "step",
            StatusCode::CONFLICT,
            ["nothing", "nothing", "early"],
        ),
        ("other", StatusCode::OK, ["late", "late", "late"]),
    ] {
        assert_eq!(
            outcome(ALL, meanwhile).await,
            (status, of(held)),
            "{meanwhile}"
        );
    }
    // A request that writes nothing under the name is not concerned.
    let (status, held) = outcome(&["note"], "step").await;
    assert_eq!(
        (status, held),
        (StatusCode::OK, of(["late", "nothing", "early"]))
    );
}

#[tokio::test]
async fn a_policy_for_what_is_no_name_is_refused_by_name() {
    for bad in ["", "a\n", &"x".repeat(129)] {
        let refused = SessionLayer::builder(MemoryStore::new(), keys(1))
            .on_conflict_of(bad, OnConflict::Refuse)
            .build();
        let error = refused.map(drop).unwrap_err();
        assert_eq!(
            error,
            ConfigError::ValueName {
                name: bad.to_owned()
            }
        );
    }
}
