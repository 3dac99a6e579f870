//! The devices a user is signed in on: a list, "log out this one", "log out everywhere", and a change of the password that logs out the
//! others.
//!
//! `cargo run -p ha-session --features axum --example devices` walks through it in one process and says what it did.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::http::header::{COOKIE, SET_COOKIE, USER_AGENT};
use axum::http::{HeaderMap, Request};
use axum::routing::post;
use axum::{Json, Router};
use ha_session::{Key, MemoryStore, Session, SessionError, SessionLayer};
use tower::ServiceExt;

type Answer<T> = Result<T, SessionError>;

/// Whoever gets here has given the right password, in this same request.
async fn sign_in(session: Session, Path(user): Path<String>, headers: HeaderMap) -> Answer<()> {
    let device = headers
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok());
    // A new id, and in one step with it whose the session is.
    session.set_principal_on(&user, device.unwrap_or("unknown"))?;
    session.insert("user", user)
}

/// The user's own list. Device hints come from a header: escape them where they are shown.
async fn devices(session: Session) -> Answer<Json<Vec<(String, String, bool)>>> {
    let own = session.id();
    let list = session.sessions().await?.into_iter().map(|info| {
        let here = Some(info.id()) == own;
        (info.id(), info.device.unwrap_or_default(), here)
    });
    Ok(Json(list.collect()))
}

/// Ends one of the user's own sessions; anybody else's id is answered with false.
async fn log_out_one(session: Session, Path(id): Path<String>) -> Answer<String> {
    Ok(session.revoke(&id).await?.to_string())
}

async fn log_out_everywhere(session: Session) -> Answer<()> {
    session.revoke_all().await
}

/// First the new password is stored, then everybody who signed in with the old one is logged out, and this session goes on under a new
/// id.
async fn change_password(session: Session) -> Answer<()> {
    session.revoke_others().await?;
    session.rotate();
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = Router::new()
        .route("/sign-in/{user}", post(sign_in))
        .route("/devices", post(devices))
        .route("/log-out/{id}", post(log_out_one))
        .route("/log-out-everywhere", post(log_out_everywhere))
        .route("/password", post(change_password))
        .layer(SessionLayer::new(
            MemoryStore::new(),
            Key::from_bytes(&[7; 32])?,
        ));

    let mut cookies = [const { BTreeMap::<String, String>::new() }; 3];
    let names = ["phone", "laptop", "library"];
    let mut send = async |who: usize, path: &str| -> Result<String, Box<dyn std::error::Error>> {
        let held = cookies[who]
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let request = Request::post(path)
            .header(USER_AGENT, names[who])
            .header(COOKIE, held.collect::<Vec<_>>().join("; "))
            .body(Body::empty())?;
        let answer = app.clone().oneshot(request).await?;
        let status = answer.status();
        for set in answer.headers().get_all(SET_COOKIE) {
            let pair = set.to_str()?.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap_or_default();
            cookies[who].insert(name.to_owned(), value.to_owned());
        }
        let body = to_bytes(answer.into_body(), 1 << 16).await?;
        let text = String::from_utf8(body.to_vec())?;
        println!("{:>8} {path}: {status} {text}", names[who]);
        Ok(text)
    };

    for who in 0..3 {
        send(who, "/sign-in/ann").await?;
    }
    let list: Vec<(String, String, bool)> = serde_json::from_str(&send(0, "/devices").await?)?;
    let library = list.iter().find(|(_, device, _)| device == "library");
    let (id, ..) = library.ok_or("the library is signed in")?;
    assert_eq!(send(0, &format!("/log-out/{id}")).await?, "true");
    assert_eq!(send(2, "/devices").await?, "[]");

    send(0, "/password").await?;
    assert_eq!(send(1, "/devices").await?, "[]");
    assert!(send(0, "/devices").await?.contains("phone"));

    send(0, "/log-out-everywhere").await?;
    assert_eq!(send(0, "/devices").await?, "[]");
    Ok(())
}
