//! An app with sessions, a browser for it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::routing::get;
use ha_core::sign::{Key, KeyRing};
use ha_session::{Session, SessionError, SessionLayer, Store};
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response, StatusCode};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;

type Answer<T> = Result<T, SessionError>;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn keys() -> KeyRing {
    Key::from_bytes(&[1; 32]).unwrap().into()
}

/// Where a slow handler waits.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    arrived: Arc<Notify>,
    go: Arc<Notify>,
}

fn routes(gate: Gate) -> Router {
    Router::new()
        .route(
            "/get/{name}",
            get(
                async |session: Session, Path(name): Path<String>| -> Answer<String> {
                    let value: Option<String> = session.get(&name).await?;
                    Ok(value.unwrap_or_else(|| "nothing".into()))
                },
            ),
        )
        .route(
            "/set/{name}/{value}",
            get(
                async |session: Session,
                       Path((name, value)): Path<(String, String)>|
                       -> Answer<&'static str> {
                    session.insert(&name, value)?;
                    Ok("set")
                },
            ),
        )
        .route(
            "/held/{count}",
            get(
                async |session: Session, Path(count): Path<u32>| -> Answer<String> {
                    let mut held = Vec::new();
                    for n in 0..count {
                        let name = n.to_string();
                        if session.get::<String>(&name).await?.is_some() {
                            held.push(name);
                        }
                    }
                    Ok(held.join(","))
                },
            ),
        )
        .route(
            "/sign-in/{user}",
            get(
                async |session: Session, Path(user): Path<String>| -> Answer<&'static str> {
                    session.insert("user", user)?;
                    session.rotate();
                    Ok("in")
                },
            ),
        )
        .route(
            "/sign-out",
            get(async |session: Session| {
                session.destroy();
                "out"
            }),
        )
        .route(
            "/slow",
            get(async move |session: Session| -> Answer<&'static str> {
                let _user: Option<String> = session.get("user").await?;
                gate.arrived.notify_one();
                gate.go.notified().await;
                session.insert("slow", "late")?;
                Ok("done")
            }),
        )
}

/// A browser: keeps the cookie that it was given.
#[derive(Clone)]
pub(crate) struct Client {
    app: Router,
    gate: Gate,
    pub(crate) cookie: Option<String>,
    version: Option<String>,
}

impl Client {
    pub(crate) fn new(store: impl Store) -> Self {
        Self::with(SessionLayer::new(store, keys()))
    }

    /// A browser for an app with other settings.
    pub(crate) fn with(layer: SessionLayer) -> Self {
        let gate = Gate::default();
        Self {
            app: routes(gate.clone()).layer(layer),
            gate,
            cookie: None,
            version: None,
        }
    }

    /// A browser for an app of its own.
    pub(crate) fn of(app: Router) -> Self {
        Self {
            app,
            gate: Gate::default(),
            cookie: None,
            version: None,
        }
    }

    fn request(&self, path: &str) -> Request<Body> {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("__Host-id={cookie}"));
        }
        if let Some(version) = &self.version {
            request = request.header(COOKIE, format!("__Host-id-v={version}"));
        }
        request.body(Body::empty()).unwrap()
    }

    /// Sends a request and says how it was answered and with what text.
    pub(crate) async fn send(&mut self, path: &str) -> (StatusCode, String) {
        let answer = self.app.clone().oneshot(self.request(path)).await.unwrap();
        self.take_cookie(&answer);
        let status = answer.status();
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn take_cookie(&mut self, answer: &Response<Body>) {
        for header in answer.headers().get_all(SET_COOKIE) {
            let pair = header.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let value = (!value.is_empty()).then(|| value.to_owned());
            match name {
                "__Host-id" => self.cookie = value,
                "__Host-id-v" => self.version = value,
                other => panic!("unexpected cookie {other}"),
            }
        }
    }

    pub(crate) async fn text(&mut self, path: &str) -> String {
        let (status, text) = self.send(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text
    }

    /// Asks again as long as the answer is 503, as a browser app does.
    pub(crate) async fn patient(&mut self, path: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (status, text) = self.send(path).await;
            if status != StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(status, StatusCode::OK, "{path}: {text}");
                return text;
            }
            assert!(Instant::now() < deadline, "{path}: still {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asserts the answer when nothing is known: 503, and the cookie stays.
    pub(crate) async fn assert_unknown(&mut self, path: &str) {
        let cookie = self.cookie.clone();
        let (status, text) = self.send(path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
        assert_eq!(self.cookie, cookie, "{path}");
    }
}

/// How many of 100 concurrent changes of different names are missing afterwards.
pub(crate) async fn lost_in_a_merge(store: impl Store) -> usize {
    let mut client = Client::new(store);
    client.text("/set/user/ann").await;
    let mut requests = JoinSet::new();
    for n in 0..100 {
        let mut client = client.clone();
        requests.spawn(async move { client.patient(&format!("/set/n{n}/{n}")).await });
    }
    requests.join_all().await;
    let mut lost = 0;
    for n in 0..100 {
        if client.patient(&format!("/get/n{n}")).await != n.to_string() {
            lost += 1;
        }
    }
    lost
}

/// What a slow request that ends after the sign-out is told, and whether it brought the session back.
pub(crate) async fn slow_request_after_sign_out(store: impl Store) -> (StatusCode, bool) {
    let mut client = Client::new(store);
    client.text("/set/user/ann").await;
    let mut copy = client.clone();
    let mut slow = client.clone();
    let slow = tokio::spawn(async move { slow.send("/slow").await });
    client.gate.arrived.notified().await;
    client.text("/sign-out").await;
    client.gate.go.notify_one();
    let (status, _) = slow.await.unwrap();
    let back = copy.text("/get/slow").await == "late" || copy.text("/get/user").await == "ann";
    (status, back)
}

/// Whether somebody who planted an id is signed in after its user signed in.
pub(crate) async fn planted_id_is_signed_in(store: impl Store) -> bool {
    let mut mallory = Client::new(store);
    mallory.text("/set/cart/1").await;
    let mut victim = mallory.clone();
    victim.text("/sign-in/ann").await;
    assert_eq!(victim.text("/get/user").await, "ann");
    assert_eq!(victim.text("/get/cart").await, "1");
    mallory.text("/get/user").await == "ann"
}

/// Waits until `done` says so.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
