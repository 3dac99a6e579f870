//! An app with sessions, a browser for it, and a store that counts and can be broken.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::routing::get;
use ha_core::sign::{Key, KeyRing};
use ha_session::{
    Commit, Expiry, Load, MemoryStore, Outcome, Patch, Principal, Session, SessionError,
    SessionInfo, SessionKey, SessionLayer, Store, StoreError, Version,
};
use http::header::{CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use http::{Request, Response, StatusCode};
use tokio::sync::Notify;
use tower::ServiceExt;

pub(crate) type Answer<T> = Result<T, SessionError>;

pub(crate) fn keys(byte: u8) -> KeyRing {
    Key::from_bytes(&[byte; 32]).unwrap().into()
}

/// The memory store, counted and breakable.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probe {
    pub(crate) memory: MemoryStore,
    loads: Arc<AtomicUsize>,
    commits: Arc<AtomicUsize>,
    touches: Arc<AtomicUsize>,
    pub(crate) down: Arc<AtomicBool>,
    pub(crate) future_format: Arc<AtomicBool>,
    pub(crate) hung: Arc<AtomicBool>,
    /// Every answer takes another turn.
    pub(crate) slow: Arc<AtomicBool>,
    /// The next commit is stored, and nobody is told.
    pub(crate) lose_answer: Arc<AtomicBool>,
    /// The next commit is never stored, and nobody is told.
    pub(crate) lose_request: Arc<AtomicBool>,
    committed: Arc<Mutex<HashSet<SessionKey>>>,
}

impl Probe {
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (
            count(&self.loads),
            count(&self.commits),
            count(&self.touches),
        )
    }

    /// How many of the sessions that were ever committed can still be used.
    pub(crate) async fn live(&self) -> usize {
        let keys = self.committed.lock().unwrap().clone();
        let mut live = 0;
        for key in keys {
            let load = self.memory.load(key, Version::ZERO).await;
            live += usize::from(matches!(load, Load::Found(record) if !record.superseded));
        }
        live
    }

    /// Writes a value into every session, as other requests do.
    pub(crate) async fn write_meanwhile(&self, name: &str) {
        let keys = self.committed.lock().unwrap().clone();
        for key in keys {
            let mut patch = Patch::new();
            patch.set(name, &b"other"[..]);
            let commit = Commit::update(key, patch, Expiry::default(), 1 << 16);
            self.memory.commit(commit).await.unwrap();
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        if self.hung.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.slow.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if self.future_format.load(Ordering::SeqCst) {
            return Err(StoreError::Format { found: 99 });
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                store: "probe",
                source: "switched off".into(),
            });
        }
        Ok(())
    }
}

impl Store for Probe {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        self.loads.fetch_add(1, Ordering::SeqCst);
        match self.check().await {
            Ok(()) => self.memory.load(key, floor).await,
            Err(error) => Load::Unknown(error),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.check().await?;
        let lost = || {
            Err(StoreError::NoAnswer {
                store: "probe",
                source: "lost".into(),
            })
        };
        if self.lose_request.swap(false, Ordering::SeqCst) {
            return lost();
        }
        self.committed.lock().unwrap().insert(commit.key_after());
        let outcome = self.memory.commit(commit).await;
        if self.lose_answer.swap(false, Ordering::SeqCst) {
            return lost();
        }
        outcome
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.check().await?;
        self.memory.destroy(key).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.touches.fetch_add(1, Ordering::SeqCst);
        self.check().await?;
        self.memory.touch(key, expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.check().await?;
        self.memory.list(principal).await
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        self.check().await?;
        self.memory.revoke(principal, key).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        self.check().await?;
        self.memory.revoke_all(principal, keep).await
    }
}

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/plain", get(async || "plain"))
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
            "/swallow",
            get(async |session: Session| {
                let user: Option<String> = session.get("user").await.unwrap_or(None);
                format!("hello {user:?}")
            }),
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
}

/// A browser: keeps the cookie it was given.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) app: Router,
    pub(crate) cookie: Option<String>,
    /// How new a state it was told of.
    pub(crate) version: Option<String>,
    pub(crate) ticket: Option<String>,
}

impl Client {
    pub(crate) fn new(store: impl Store) -> Self {
        Self::with(routes(), SessionLayer::new(store, keys(1)))
    }

    pub(crate) fn with(routes: Router, layer: SessionLayer) -> Self {
        Self {
            app: routes.layer(layer),
            cookie: None,
            version: None,
            ticket: None,
        }
    }

    pub(crate) fn request(&self, path: &str) -> Request<Body> {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("__Host-id={cookie}"));
        }
        if let Some(version) = &self.version {
            request = request.header(COOKIE, format!("__Host-id-v={version}"));
        }
        if let Some(ticket) = &self.ticket {
            request = request.header(COOKIE, format!("__Host-id-ticket={ticket}"));
        }
        request.body(Body::empty()).unwrap()
    }

    pub(crate) async fn send(&mut self, path: &str) -> Response<Body> {
        let answer = self.app.clone().oneshot(self.request(path)).await.unwrap();
        self.take_cookie(&answer);
        answer
    }

    pub(crate) fn take_cookie(&mut self, answer: &Response<Body>) {
        for header in answer.headers().get_all(SET_COOKIE) {
            let text = header.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            let value = (!value.is_empty()).then(|| value.to_owned());
            match name {
                "__Host-id" => self.cookie = value,
                "__Host-id-v" => self.version = value,
                "__Host-id-ticket" => self.ticket = value,
                other => panic!("unexpected cookie {other}"),
            }
        }
    }

    pub(crate) async fn text(&mut self, path: &str) -> String {
        let answer = self.send(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        body(answer).await
    }
}

pub(crate) async fn body(answer: Response<Body>) -> String {
    let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) async fn assert_unavailable(answer: Response<Body>) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let headers = answer.headers();
    assert_eq!(headers[RETRY_AFTER], "1");
    assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
    assert!(
        !headers.contains_key(SET_COOKIE),
        "the cookie is left alone"
    );
    let problem: serde_json::Value = serde_json::from_str(&body(answer).await).unwrap();
    assert_eq!(problem["status"], 503);
}

/// Routes on which a request waits in its handler until it is let go.
pub(crate) fn slow_routes(gate: Arc<Notify>, arrived: Arc<Notify>) -> Router {
    routes().route(
        "/slow/{mode}",
        get(
            async move |session: Session, Path(mode): Path<String>| -> Answer<String> {
                let user: Option<String> = if mode == "read" {
                    session.get("user").await?
                } else {
                    None
                };
                arrived.notify_one();
                gate.notified().await;
                session.insert("slow", "late")?;
                Ok(format!("{user:?}"))
            },
        ),
    )
}
