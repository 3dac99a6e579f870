//! Commits that are stored while their answer is lost, and handlers that go on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use ha_session::{OnConflict, Session, SessionLayer};
use http::StatusCode;

use crate::support::{Answer, Client, Probe, assert_unavailable, keys, routes};

/// A handler that commits at once, whose first answer is lost, and that then does `then`.
fn app(store: &Probe) -> Client {
    let probe = store.clone();
    let eager = async move |session: Session, Path(then): Path<String>| -> Answer<&'static str> {
        session.insert("user", "ann")?;
        if then != "stay" {
            session.rotate();
        }
        probe.lose_answer.store(true, Ordering::SeqCst);
        assert!(session.commit().await.is_err(), "the answer is lost");
        match then.as_str() {
            "more" => session.insert("more", "yes")?,
            "out" => session.destroy(),
            _ => {}
        }
        Ok("done")
    };
    let routes: Router = routes().route("/eager/{then}", get(eager));
    Client::with(routes, SessionLayer::new(store.clone(), keys(1)))
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_goes_on_under_the_same_id() {
    for then in ["rotate", "more"] {
        let store = Probe::default();
        let mut client = app(&store);
        client.text("/set/cart/1").await;
        let planted = client.cookie.clone();
        client.text(&format!("/eager/{then}")).await;
        assert_ne!(client.cookie, planted);
        assert_eq!(client.text("/get/user").await, "ann");
        assert_eq!(client.text("/get/cart").await, "1");
        let more = if then == "more" { "yes" } else { "nothing" };
        assert_eq!(client.text("/get/more").await, more);
        assert_eq!(store.memory.len(), 2, "the old id and one new id");
    }
}

#[tokio::test]
async fn a_new_session_whose_answer_was_lost_is_not_started_twice() {
    let store = Probe::default();
    let mut client = app(&store);
    client.text("/eager/stay").await;
    assert_eq!(client.text("/get/user").await, "ann");
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn a_sign_out_ends_what_an_unconfirmed_commit_left_as_well() {
    for started in [true, false] {
        let store = Probe::default();
        let mut client = app(&store);
        if started {
            client.text("/set/cart/1").await;
        }
        client.text("/eager/out").await;
        assert_eq!(store.live().await, 0, "started {started}");
    }
}

#[tokio::test]
async fn another_requests_rotation_is_still_told() {
    let store = Probe::default();
    let mut client = app(&store);
    client.text("/set/cart/1").await;
    let mut other = client.clone();
    client.text("/sign-in/ann").await;
    let answer = other.send("/sign-in/eve").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_the_handler_gave_up_waiting_for_is_not_nobody() {
    let store = Probe::default();
    let impatient = async |session: Session| {
        let wait = Duration::from_millis(10);
        let user = tokio::time::timeout(wait, session.get::<String>("user")).await;
        format!("hello {:?}", user.ok().and_then(Result::ok).flatten())
    };
    let routes = routes().route("/impatient", get(impatient));
    let mut client = Client::with(routes, SessionLayer::new(store.clone(), keys(1)));
    client.text("/set/user/ann").await;
    assert_eq!(client.text("/impatient").await, "hello Some(\"ann\")");
    store.hung.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/impatient").await).await;
}

#[tokio::test]
async fn a_rotation_asked_for_during_a_commit_is_not_forgotten() {
    let store = Probe::default();
    let late = async |session: Session| -> Answer<&'static str> {
        session.insert("user", "ann")?;
        let clone = session.clone();
        let (committed, ()) = tokio::join!(session.commit(), async move { clone.rotate() });
        committed?;
        Ok("done")
    };
    let routes = routes().route("/late", get(late));
    let mut client = Client::with(routes, SessionLayer::new(store.clone(), keys(1)));
    client.text("/set/cart/1").await;
    store.slow.store(true, Ordering::SeqCst);
    let mut planted = client.clone();
    client.text("/late").await;
    store.slow.store(false, Ordering::SeqCst);
    planted.text("/get/cart").await;
    let answer = planted.send("/set/cart/2").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "rotated");
}

/// The first try is stored and its answer lost; the end of the request sends the same again.
#[tokio::test]
async fn a_change_whose_answer_was_lost_does_not_conflict_with_itself() {
    let store = Probe::default();
    let probe = store.clone();
    let count = async move |session: Session, Path(other): Path<bool>| -> Answer<&'static str> {
        let n: u32 = session.get("n").await?.unwrap_or(0);
        session.insert("n", n + 1)?;
        probe.lose_answer.store(!other, Ordering::SeqCst);
        assert_eq!(session.commit().await.is_err(), !other);
        Ok("counted")
    };
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .on_conflict(OnConflict::Refuse)
        .build()
        .unwrap();
    let number = async |session: Session| -> Answer<String> {
        Ok(session.get::<u32>("n").await?.unwrap_or(0).to_string())
    };
    let routes = routes()
        .route("/count/{other}", get(count))
        .route("/number", get(number));
    let mut client = Client::with(routes, layer);
    client.text("/count/true").await;
    client.text("/count/false").await;
    assert_eq!(client.text("/number").await, "2", "counted once each");
}

/// The control for the one above: what another request stored meanwhile is a conflict all the same.
#[tokio::test]
async fn another_requests_change_is_a_conflict_also_after_a_lost_answer() {
    let store = Probe::default();
    let probe = store.clone();
    let slow = async move |session: Session| -> Answer<&'static str> {
        let _: Option<u32> = session.get("n").await?;
        session.insert("n", 7)?;
        probe.lose_request.store(true, Ordering::SeqCst);
        assert!(session.commit().await.is_err(), "it never arrived");
        probe.write_meanwhile("n").await;
        Ok("done")
    };
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .on_conflict(OnConflict::Refuse)
        .build()
        .unwrap();
    let routes = routes().route("/slow-count", get(slow));
    let mut client = Client::with(routes, layer);
    client.text("/set/cart/1").await;
    let answer = client.send("/slow-count").await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
}
