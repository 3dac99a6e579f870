//! Sessions that tower-sessions' own stores wrote go on, behind its trait and behind our layer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use ha_db::redis::driver;
use ha_session::adapter::TowerSessions;
use ha_session::migrate_from::{Legacy, Migration, TowerSessionsPostgres, TowerSessionsRedis};
use ha_session::{Key, Session, SessionError, SessionLayer, Store};
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use tower::ServiceExt as _;
use tower_sessions_014::SessionStore;
use tower_sessions_014::session::Id;

use crate::bed::{PostgresBed, RedisBed, session, signed_in, text};

/// The old store's sessions, read and changed behind its own trait.
async fn goes_on(theirs: impl SessionStore, ours: impl Store + Clone, reader: impl Legacy + Clone) {
    let theirs = Arc::new(theirs);
    let old = signed_in(&theirs).await;
    let rich = session(Some(old), &theirs);
    rich.insert("cart", serde_json::json!({"a": [1, null, 2.5]}))
        .await
        .unwrap();
    rich.save().await.unwrap();

    // The control: without the reader everybody is signed out.
    let alone = Arc::new(TowerSessions::new(ours.clone()));
    assert_eq!(text(&alone, old, "user").await, None);

    let moved = Arc::new(TowerSessions::new(ours).reading_from(reader));
    assert_eq!(text(&moved, old, "user").await.as_deref(), Some("ann"));
    let cart: Option<serde_json::Value> = session(Some(old), &moved).get("cart").await.unwrap();
    assert_eq!(cart.unwrap()["a"][2], 2.5);
    let change = session(Some(old), &moved);
    change.insert("user", "bob").await.unwrap();
    change.save().await.unwrap();
    assert_eq!(
        text(&moved, old, "user").await.as_deref(),
        Some("bob"),
        "ours is the newer one"
    );

    let other = signed_in(&theirs).await;
    for id in [old, other] {
        session(Some(id), &moved).delete().await.unwrap();
        assert_eq!(text(&moved, id, "user").await, None);
        assert_eq!(
            text(&theirs, id, "user").await,
            None,
            "nothing is left to come back from"
        );
    }
    assert_eq!(text(&moved, Id(7), "user").await, None, "never was");
}

#[tokio::test]
async fn what_their_redis_store_left_goes_on_behind_their_trait() {
    let bed = RedisBed::start().await;
    let reader = TowerSessionsRedis::new(bed.connection.clone());
    goes_on(bed.theirs.clone(), bed.ours(), reader).await;
}

#[tokio::test]
async fn what_their_postgresql_store_left_goes_on_behind_their_trait() {
    let bed = PostgresBed::start().await;
    let reader = TowerSessionsPostgres::new(bed.router.clone());
    goes_on(bed.theirs.clone(), bed.ours(), reader.clone()).await;
    for bad in ["", "a\"b", "a b"] {
        let error = reader.clone().table("tower_sessions", bad).unwrap_err();
        assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
    }
}

type Answer<T> = Result<T, SessionError>;

/// An app on our layer, and a browser that still has their cookie.
struct Browser {
    app: Router,
    cookies: Vec<(String, String)>,
}

impl Browser {
    fn new(store: impl Store, reader: impl Legacy, id: Id) -> Self {
        let who = async |session: Session| -> Answer<String> {
            Ok(session.get("user").await?.unwrap_or_default())
        };
        let blind = async |session: Session| session.insert("blind", "1");
        let rotate = async |session: Session| session.rotate();
        let out = async |session: Session| session.destroy();
        let key = Key::from_bytes(&[1; 32]).unwrap();
        let layer = SessionLayer::builder(store, key)
            .migrate(Migration::from(reader))
            .store_timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        Self {
            app: Router::new()
                .route("/who", get(who))
                .route("/blind", get(blind))
                .route("/rotate", get(rotate))
                .route("/out", get(out))
                .layer(layer),
            cookies: vec![("id".to_owned(), id.to_string())],
        }
    }

    async fn send(&mut self, path: &str) -> (StatusCode, String) {
        let cookies = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        let request = Request::get(path).header(COOKIE, cookies);
        let request = request.body(Body::empty()).unwrap();
        let answer = self.app.clone().oneshot(request).await.unwrap();
        for header in answer.headers().get_all(SET_COOKIE) {
            let text = header.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(held, _)| held != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn who(&mut self) -> String {
        let (status, text) = self.send("/who").await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text
    }

    /// Whose cookies it has, without the version that goes with the id of ours.
    fn holds(&self) -> Vec<&str> {
        let names = self.cookies.iter().map(|(name, _)| name.as_str());
        names.filter(|name| *name != "__Host-id-v").collect()
    }
}

async fn goes_on_behind_our_layer(
    theirs: impl SessionStore,
    ours: impl Store + Clone,
    reader: impl Legacy + Clone,
) {
    let theirs = Arc::new(theirs);
    for first in ["/who", "/blind", "/rotate"] {
        let id = signed_in(&theirs).await;
        let browser = || Browser::new(ours.clone(), reader.clone(), id);
        let (mut ann, mut late, mut thief) = (browser(), browser(), browser());
        ann.send(first).await;
        assert_eq!(ann.holds(), ["__Host-id"], "theirs is taken back: {first}");
        assert_eq!(ann.who().await, "ann", "{first}");
        assert_eq!(
            text(&theirs, id, "user").await,
            None,
            "the copy is the only one"
        );
        if first != "/rotate" {
            // Its answer was lost, so it comes with the old cookie again.
            assert_eq!(late.who().await, "ann", "{first}");
            assert_eq!(late.holds(), ["__Host-id"]);
        }
        let (status, _) = ann.send("/out").await;
        assert_eq!(status, StatusCode::OK);
        assert!(ann.holds().is_empty());
        if first != "/rotate" {
            assert_eq!(
                thief.who().await,
                "",
                "gone stays gone, also by the old cookie"
            );
        }
    }
    let id = signed_in(&theirs).await;
    let mut out = Browser::new(ours.clone(), reader.clone(), id);
    let mut copy = Browser::new(ours, reader, id);
    out.send("/out").await;
    assert!(out.holds().is_empty());
    assert_eq!(copy.who().await, "", "ended without having been read");
}

#[tokio::test]
async fn what_their_redis_store_left_goes_on_behind_our_layer() {
    let bed = RedisBed::start().await;
    let reader = TowerSessionsRedis::new(bed.connection.clone());
    goes_on_behind_our_layer(bed.theirs.clone(), bed.ours(), reader).await;
}

#[tokio::test]
async fn what_their_postgresql_store_left_goes_on_behind_our_layer() {
    let bed = PostgresBed::start().await;
    let reader = TowerSessionsPostgres::new(bed.router.clone());
    goes_on_behind_our_layer(bed.theirs.clone(), bed.ours(), reader).await;
}

#[tokio::test]
async fn what_is_no_record_of_theirs_is_unknown_and_what_is_no_id_is_nothing() {
    let bed = RedisBed::start().await;
    let reader = TowerSessionsRedis::new(bed.connection.clone());
    let mut set = driver::cmd("SET");
    set.arg(Id(5).to_string()).arg("garbage");
    bed.servers.nodes[0].command::<()>(&set).await.unwrap();
    let mut browser = Browser::new(bed.ours(), reader.clone(), Id(5));
    let (status, _) = browser.send("/who").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.holds(), ["id"], "the cookie is left alone");

    let mut set = driver::cmd("SET");
    set.arg("other-key").arg("garbage");
    bed.servers.nodes[0].command::<()>(&set).await.unwrap();
    browser.cookies[0].1 = "other-key".to_owned();
    assert_eq!(browser.who().await, "");
}
