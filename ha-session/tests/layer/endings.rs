//! Handlers that fail, panic, stream, and go on after their answer.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use ha_session::{MemoryStore, OnServerError, Session, SessionError, SessionLayer};
use http::StatusCode;
use http::header::SET_COOKIE;
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::support::{Answer, Client, Probe, body, keys, routes};

/// A handler that changes the session, signs in or out, and then answers 500.
fn failing() -> Router {
    let fail = async |session: Session, Path(what): Path<String>| -> Answer<Response> {
        match what.as_str() {
            "out" => session.destroy(),
            "in" => {
                session.insert("user", "eve")?;
                session.rotate();
            }
            _ => session.insert("tries", "1")?,
        }
        Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response())
    };
    routes().route("/fail/{what}", get(fail))
}

fn client(store: &MemoryStore, policy: OnServerError) -> Client {
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .on_server_error(policy)
        .build()
        .unwrap();
    Client::with(failing(), layer)
}

#[tokio::test]
async fn the_policy_says_what_becomes_of_the_changes_of_a_handler_that_failed() {
    for (policy, tries, user, moved) in [
        (OnServerError::Commit, "1", "eve", true),
        (OnServerError::Discard, "nothing", "ann", false),
    ] {
        let mut client = client(&MemoryStore::new(), policy);
        client.text("/set/user/ann").await;
        let before = client.cookie.clone();
        for path in ["/fail/count", "/fail/in"] {
            let answer = client.send(path).await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(client.cookie != before, moved, "{policy:?}");
        assert_eq!(client.text("/get/tries").await, tries, "{policy:?}");
        assert_eq!(client.text("/get/user").await, user, "{policy:?}");
    }
}

#[tokio::test]
async fn a_sign_out_is_carried_out_whatever_the_handler_answers() {
    for policy in [OnServerError::Commit, OnServerError::Discard] {
        let mut client = client(&MemoryStore::new(), policy);
        client.text("/set/user/ann").await;
        let mut stolen = client.clone();
        client.send("/fail/out").await;
        assert_eq!(client.cookie, None);
        assert_eq!(stolen.text("/get/user").await, "nothing");
    }
}

/// A handler that changes the session, or signs out, and then panics.
fn panicking() -> Router {
    let panic = async |session: Session, Path(what): Path<String>| -> Answer<String> {
        match what.as_str() {
            "out" => session.destroy(),
            _ => session.insert("half", "done")?,
        }
        panic!("the handler of {what} fell over")
    };
    routes().route("/panic/{what}", get(panic))
}

#[tokio::test]
async fn a_panic_goes_on_and_commits_nothing_but_a_sign_out() {
    let mut client = Client::with(panicking(), SessionLayer::new(MemoryStore::new(), keys(1)));
    client.text("/set/user/ann").await;
    for (path, user) in [("/panic/set", "ann"), ("/panic/out", "nothing")] {
        let request = client.app.clone().oneshot(client.request(path));
        let panic = AssertUnwindSafe(request).catch_unwind().await.unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains("fell over"),
            "the panic is the handler's own"
        );
        assert_eq!(client.text("/get/user").await, user, "{path}");
        assert_eq!(client.text("/get/half").await, "nothing", "{path}");
    }
}

#[tokio::test]
async fn the_commit_is_done_before_the_first_part_of_a_stream_leaves() {
    let store = Probe::default();
    let stream = async |session: Session| -> Answer<Body> {
        session.insert("user", "ann")?;
        let parts = stream::iter(["a", "b"]).map(Ok::<_, Infallible>);
        Ok(Body::from_stream(parts))
    };
    let routes = routes().route("/stream", get(stream));
    let mut client = Client::with(routes, SessionLayer::new(store.clone(), keys(1)));
    let answer = client.send("/stream").await;
    assert_eq!(
        store.counts(),
        (0, 1, 0),
        "committed, and no part was asked for"
    );
    assert!(answer.headers().contains_key(SET_COOKIE));
    assert_eq!(body(answer).await, "ab");
    assert_eq!(client.text("/get/user").await, "ann");
}

/// A handler whose stream does something with the session after the headers have left, and says how its commit went.
fn late() -> Router {
    let late = async |session: Session, Path(what): Path<String>| {
        let part = async move {
            let done: Answer<()> = async {
                match what.as_str() {
                    "out" => session.destroy(),
                    "rotate" => session.rotate(),
                    _ => session.insert("late", "yes")?,
                }
                session.commit().await
            }
            .await;
            let said = match done {
                Ok(()) => "stored",
                Err(SessionError::Answered) => "too late",
                Err(error) => panic!("{error}"),
            };
            Ok::<_, Infallible>(said)
        };
        Body::from_stream(stream::once(part))
    };
    routes().route("/late/{what}", get(late))
}

#[tokio::test]
async fn a_stream_can_change_and_end_a_session_and_neither_start_nor_rotate_one() {
    let store = Probe::default();
    let mut client = Client::with(late(), SessionLayer::new(store.clone(), keys(1)));
    assert_eq!(
        client.text("/late/set").await,
        "too late",
        "nobody would be told the new id"
    );
    assert_eq!(store.live().await, 0);

    client.text("/set/user/ann").await;
    let cookie = client.cookie.clone();
    assert_eq!(
        client.text("/late/rotate").await,
        "too late",
        "nobody would be told the new id"
    );
    assert_eq!(client.text("/late/set").await, "stored");
    assert_eq!(client.cookie, cookie);
    assert_eq!(client.text("/get/user").await, "ann");
    assert_eq!(client.text("/get/late").await, "yes");
    assert_eq!(client.text("/late/out").await, "stored");
    assert_eq!(client.text("/get/user").await, "nothing");
}

/// Somebody who dropped the answer before the handler was done has dropped its changes as well.
#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_has_changed_nothing() {
    let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let routes = crate::support::slow_routes(Arc::clone(&gate), Arc::clone(&arrived));
    let mut client = Client::with(routes, SessionLayer::new(MemoryStore::new(), keys(1)));
    client.text("/set/user/ann").await;
    let slow = tokio::spawn(client.app.clone().oneshot(client.request("/slow/read")));
    arrived.notified().await;
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    gate.notify_one();
    assert_eq!(client.text("/get/slow").await, "nothing");
    assert_eq!(client.text("/get/user").await, "ann");
}
