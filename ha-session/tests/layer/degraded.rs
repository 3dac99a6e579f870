//! Sessions shown from the copy that the client carries.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use ha_session::{ConfigError, Degraded, MemoryStore, Session, SessionLayer};
use http::header::{CACHE_CONTROL, SET_COOKIE};

use crate::support::{Answer, Client, Probe, assert_unavailable, body, keys, routes};

fn layer(store: &Probe) -> SessionLayer {
    SessionLayer::builder(store.clone(), keys(1))
        .degraded(Degraded::showing(["user", "town"]))
        .build()
        .unwrap()
}

fn app() -> Router {
    let state = async |session: Session| -> Answer<String> {
        let exists = session.exists().await?;
        Ok(format!(
            "exists {exists} degraded {}",
            session.is_degraded()
        ))
    };
    routes().route("/state", get(state))
}

#[tokio::test]
async fn in_an_outage_the_named_values_can_be_read_and_nothing_else() {
    let store = Probe::default();
    let mut client = Client::with(app(), layer(&store));
    client.text("/set/user/ann").await;
    client.text("/set/card/1234").await;
    assert_eq!(client.text("/state").await, "exists true degraded false");
    let (cookie, ticket) = (client.cookie.clone(), client.ticket.clone());
    assert!(ticket.is_some());

    store.down.store(true, Ordering::SeqCst);
    let answer = client.send("/get/user").await;
    assert_eq!(answer.headers()[CACHE_CONTROL], "private, no-store");
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(body(answer).await, "ann");
    assert_eq!(
        client.text("/get/town").await,
        "nothing",
        "named, and not set"
    );
    assert_eq!(client.text("/state").await, "exists true degraded true");
    for path in ["/get/card", "/set/user/bob", "/sign-in/bob", "/sign-out"] {
        assert_unavailable(client.send(path).await).await;
    }
    assert_eq!((&client.cookie, &client.ticket), (&cookie, &ticket));

    store.down.store(false, Ordering::SeqCst);
    assert_eq!(client.text("/get/card").await, "1234");
    assert_eq!(client.text("/get/user").await, "ann");
}

/// The control: an app that did not ask for it answers 503.
#[tokio::test]
async fn without_the_opt_in_there_is_no_ticket_and_an_outage_is_503() {
    let store = Probe::default();
    let mut client = Client::with(app(), SessionLayer::new(store.clone(), keys(1)));
    client.text("/set/user/ann").await;
    client.text("/get/user").await;
    assert_eq!(client.ticket, None);
    store.down.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/get/user").await).await;
}

#[tokio::test]
async fn a_ticket_is_used_for_its_own_session_alone_and_never_while_a_store_answers() {
    let store = Probe::default();
    let mut ann = Client::with(app(), layer(&store));
    ann.text("/set/user/ann").await;
    let mut eve = Client::with(app(), layer(&store));
    eve.text("/set/user/eve").await;
    let mut mixed = eve.clone();
    mixed.ticket = ann.ticket.clone();
    store.down.store(true, Ordering::SeqCst);
    assert_unavailable(mixed.send("/get/user").await).await;
    mixed.cookie = None;
    assert_eq!(
        mixed.text("/get/user").await,
        "nothing",
        "a ticket is no session"
    );
    store.down.store(false, Ordering::SeqCst);

    let mut stolen = ann.clone();
    ann.text("/sign-out").await;
    assert_eq!((&ann.cookie, &ann.ticket), (&None, &None));
    assert_eq!(stolen.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn a_ticket_is_renewed_when_a_value_changes_and_not_with_every_answer() {
    let store = Probe::default();
    let mut client = Client::with(app(), layer(&store));
    client.text("/set/user/ann").await;
    let first = client.ticket.clone();
    for path in ["/get/user", "/get/card", "/plain"] {
        let answer = client.send(path).await;
        assert!(!answer.headers().contains_key(SET_COOKIE), "{path}");
    }
    client.text("/set/card/1").await;
    assert_eq!(client.ticket, first, "what it shows is the same");
    client.text("/set/user/bob").await;
    assert_ne!(client.ticket, first);
    let mut before = client.clone();
    client.text("/sign-in/cid").await;
    store.down.store(true, Ordering::SeqCst);
    assert_eq!(client.text("/get/user").await, "cid");
    before.ticket = client.ticket.clone();
    assert_unavailable(before.send("/get/user").await).await;
}

#[test]
fn a_ticket_without_values_or_with_a_wrong_lifetime_is_refused() {
    let build = |degraded| {
        SessionLayer::builder(MemoryStore::new(), keys(1))
            .degraded(degraded)
            .build()
            .unwrap_err()
    };
    let none: [&str; 0] = [];
    assert!(matches!(
        build(Degraded::showing(none)),
        ConfigError::Zero { .. }
    ));
    for lifetime in [Duration::ZERO, Duration::from_secs(3601)] {
        let error = build(Degraded::showing(["user"]).lifetime(lifetime));
        assert!(
            error.to_string().contains(&format!("{lifetime:?}")),
            "{error}"
        );
    }
}
