//! One app behind either layer, and a browser for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ha_session::{Expiry, Key, SessionLayer, Store};
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use tokio::sync::Notify;
use tower::ServiceExt as _;
use tower_sessions_014::{Session as TheirSession, SessionManagerLayer, SessionStore};

use crate::bed::DEADLINE;

/// What handlers do with a session, whichever layer it comes from.
trait Handle: FromRequestParts<()> + Send + Sync + 'static {
    fn text(&self, name: &str) -> impl Future<Output = Result<String, Response>> + Send;
    fn set(&self, name: &str, value: String) -> impl Future<Output = Result<(), Response>> + Send;
    fn renew(&self) -> impl Future<Output = Result<(), Response>> + Send;
}

impl Handle for ha_session::Session {
    async fn text(&self, name: &str) -> Result<String, Response> {
        let text = self.get(name).await.map_err(IntoResponse::into_response)?;
        Ok(text.unwrap_or_default())
    }

    async fn set(&self, name: &str, value: String) -> Result<(), Response> {
        self.insert(name, value)
            .map_err(IntoResponse::into_response)
    }

    async fn renew(&self) -> Result<(), Response> {
        self.rotate();
        Ok(())
    }
}

fn failed(error: tower_sessions_014::session::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

impl Handle for TheirSession {
    async fn text(&self, name: &str) -> Result<String, Response> {
        let text = self.get(name).await.map_err(failed)?;
        Ok(text.unwrap_or_default())
    }

    async fn set(&self, name: &str, value: String) -> Result<(), Response> {
        self.insert(name, value).await.map_err(failed)
    }

    async fn renew(&self) -> Result<(), Response> {
        self.cycle_id().await.map_err(failed)
    }
}

/// Where a slow handler says that it is there, and waits.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    pub(crate) arrived: Arc<Notify>,
    pub(crate) go: Arc<Notify>,
}

impl Gate {
    async fn pass(&self) {
        self.arrived.notify_one();
        self.go.notified().await;
    }
}

type Answer<T> = Result<T, Response>;

fn routes<H: Handle>(gate: &Gate) -> Router {
    let (reading, rotating) = (gate.clone(), gate.clone());
    Router::new()
        .route(
            "/get/{name}",
            get(async |session: H, Path(name): Path<String>| session.text(&name).await),
        )
        .route(
            "/set/{name}/{value}",
            get(
                async |session: H, Path((name, value)): Path<(String, String)>| {
                    session.set(&name, value).await
                },
            ),
        )
        .route(
            "/set-big/{bytes}",
            get(async |session: H, Path(bytes): Path<usize>| {
                session.set("big", "x".repeat(bytes)).await
            }),
        )
        .route(
            "/read-slowly/{name}",
            get(
                async move |session: H, Path(name): Path<String>| -> Answer<String> {
                    let text = session.text(&name).await?;
                    reading.pass().await;
                    Ok(text)
                },
            ),
        )
        .route(
            "/rotate-slowly",
            get(async move |session: H| -> Answer<()> {
                session.renew().await?;
                rotating.pass().await;
                Ok(())
            }),
        )
}

/// The app with our layer. Sessions are idle for so long at most.
pub(crate) fn ours(store: impl Store, idle: Duration, gate: &Gate) -> Router {
    let expiry = Expiry::new(idle, Expiry::DEFAULT_ABSOLUTE).unwrap();
    let layer = SessionLayer::builder(store, Key::from_bytes(&[1; 32]).unwrap())
        .expiry(expiry)
        // A busy machine is no outage.
        .store_timeout(DEADLINE)
        .build()
        .unwrap();
    routes::<ha_session::Session>(gate).layer(layer)
}

/// The app with theirs, the same otherwise. It extends a session where it saves it; `always_save` saves for every request.
pub(crate) fn theirs(
    store: impl SessionStore + Clone,
    idle: Duration,
    always_save: bool,
    gate: &Gate,
) -> Router {
    let idle = tower_sessions_014::Expiry::OnInactivity(idle.try_into().unwrap());
    let layer = SessionManagerLayer::new(store)
        .with_expiry(idle)
        .with_always_save(always_save);
    routes::<TheirSession>(gate).layer(layer)
}

/// Keeps the cookies that it is given.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) app: Router,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn new(app: &Router) -> Self {
        Self {
            app: app.clone(),
            cookies: BTreeMap::new(),
        }
    }

    /// One in whose session the user is ann.
    pub(crate) async fn signed_in(app: &Router) -> Self {
        let mut browser = Self::new(app);
        browser.ok("/set/user/ann").await;
        assert!(!browser.cookies.is_empty());
        browser
    }

    /// The same browser at another app.
    pub(crate) fn at(&self, app: &Router) -> Self {
        Self {
            app: app.clone(),
            cookies: self.cookies.clone(),
        }
    }

    pub(crate) async fn send(&mut self, path: &str) -> (StatusCode, String) {
        let mut request = Request::get(path);
        for (name, value) in &self.cookies {
            request = request.header(COOKIE, format!("{name}={value}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = self.app.clone().oneshot(request).await.unwrap();
        for set in answer.headers().get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.remove(name);
            if !value.is_empty() {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn ok(&mut self, path: &str) -> String {
        let (status, text) = self.send(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text
    }

    /// Whether this browser is still signed in as ann; one that is not has lost its cookie for good.
    pub(crate) async fn is_signed_in(&mut self) -> bool {
        let user = self.ok("/get/user").await;
        let signed_in = user == "ann";
        assert!(signed_in || user.is_empty(), "{user}");
        assert_eq!(!self.cookies.is_empty(), signed_in, "and keeps its cookies");
        signed_in
    }
}
