//! The layer at the level of requests and answers, on the memory store.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::routing::get;
use ha_core::sign::{Key, KeyRing};
use ha_session::{
    Commit, Expiry, Load, MemoryStore, OnConflict, Outcome, Session, SessionError, SessionKey,
    SessionLayer, Store, StoreError, Version,
};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE, VARY};
use http::{Request, Response, StatusCode};
use tokio::sync::Notify;
use tower::ServiceExt;

type Answer<T> = Result<T, SessionError>;

fn keys(byte: u8) -> KeyRing {
    Key::from_bytes(&[byte; 32]).unwrap().into()
}

/// The memory store, counted and breakable.
#[derive(Debug, Clone, Default)]
struct Probe {
    memory: MemoryStore,
    loads: Arc<AtomicUsize>,
    commits: Arc<AtomicUsize>,
    touches: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    future_format: Arc<AtomicBool>,
    hung: Arc<AtomicBool>,
}

impl Probe {
    fn counts(&self) -> (usize, usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (
            count(&self.loads),
            count(&self.commits),
            count(&self.touches),
        )
    }

    async fn check(&self) -> Result<(), StoreError> {
        if self.hung.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
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
        self.memory.commit(commit).await
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
}

fn routes() -> Router {
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
struct Client {
    app: Router,
    cookie: Option<String>,
}

impl Client {
    fn new(store: impl Store) -> Self {
        Self::with(routes(), SessionLayer::new(store, keys(1)))
    }

    fn with(routes: Router, layer: SessionLayer) -> Self {
        Self {
            app: routes.layer(layer),
            cookie: None,
        }
    }

    fn request(&self, path: &str) -> Request<Body> {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("__Host-id={cookie}"));
        }
        request.body(Body::empty()).unwrap()
    }

    async fn send(&mut self, path: &str) -> Response<Body> {
        let answer = self.app.clone().oneshot(self.request(path)).await.unwrap();
        self.take_cookie(&answer);
        answer
    }

    fn take_cookie(&mut self, answer: &Response<Body>) {
        let Some(header) = answer.headers().get(SET_COOKIE) else {
            return;
        };
        let text = header.to_str().unwrap();
        let value = text
            .split(';')
            .next()
            .unwrap()
            .strip_prefix("__Host-id=")
            .unwrap();
        self.cookie = (!value.is_empty()).then(|| value.to_owned());
    }

    async fn text(&mut self, path: &str) -> String {
        let answer = self.send(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        body(answer).await
    }
}

async fn body(answer: Response<Body>) -> String {
    let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn assert_unavailable(answer: Response<Body>) {
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

#[tokio::test]
async fn a_request_without_a_cookie_never_asks_the_store() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    assert_eq!(client.text("/plain").await, "plain");
    assert_eq!(client.text("/get/user").await, "nothing");
    let answer = client.send("/sign-out").await;
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(store.counts(), (0, 0, 0));
}

#[tokio::test]
async fn an_untouched_session_costs_nothing_and_a_read_one_writes_nothing() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    assert_eq!(store.counts(), (0, 1, 0), "written without reading");

    let answer = client.send("/plain").await;
    assert!(!answer.headers().contains_key(VARY));
    assert_eq!(store.counts(), (0, 1, 0));

    let answer = client.send("/get/user").await;
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(answer.headers()[VARY], "cookie");
    assert_eq!(answer.headers()[CACHE_CONTROL], "private, no-store");
    assert_eq!(body(answer).await, "ann");
    assert_eq!(store.counts(), (1, 1, 0));
}

#[tokio::test]
async fn unknown_answers_503_and_never_clears_the_cookie() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    let cookie = client.cookie.clone();
    for broken in [&store.down, &store.future_format] {
        broken.store(true, Ordering::SeqCst);
        assert_unavailable(client.send("/get/user").await).await;
        // A handler that turns the error into "nobody" would greet a signed-in user as a stranger.
        assert_unavailable(client.send("/swallow").await).await;
        assert_unavailable(client.send("/set/user/bob").await).await;
        assert_unavailable(client.send("/sign-out").await).await;
        assert_eq!(client.text("/plain").await, "plain");
        broken.store(false, Ordering::SeqCst);
        assert_eq!(client.cookie, cookie);
        assert_eq!(client.text("/get/user").await, "ann");
    }
}

#[tokio::test]
async fn an_app_may_choose_to_answer_without_knowing_the_session() {
    let store = Probe::default();
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .pass_unknown(true)
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    store.down.store(true, Ordering::SeqCst);
    assert_eq!(client.text("/swallow").await, "hello None");
    assert_unavailable(client.send("/set/user/bob").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_after_its_deadline() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    store.hung.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/get/user").await).await;
    assert_unavailable(client.send("/set/user/bob").await).await;
}

#[tokio::test]
async fn a_commit_that_fails_replaces_the_answer_of_the_handler() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    store.down.store(true, Ordering::SeqCst);
    assert_unavailable(client.send("/set/user/ann").await).await;
    assert_eq!(client.cookie, None, "no cookie for what is not stored");
}

#[tokio::test]
async fn cookies_that_are_not_ours_count_as_no_session() {
    let store = Probe::default();
    let mut other = Client::with(routes(), SessionLayer::new(store.clone(), keys(2)));
    other.text("/set/user/eve").await;
    let foreign = other.cookie.clone().unwrap();
    let before = store.counts();
    for bad in [
        foreign.as_str(),
        "",
        "garbage",
        "%%%",
        &foreign[..50],
        "a=b;c",
    ] {
        let mut client = Client::new(store.clone());
        client.cookie = Some(bad.to_owned());
        let answer = client.send("/get/user").await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert_eq!(body(answer).await, "nothing", "{bad}");
    }
    assert_eq!(store.counts(), before, "the store was not asked");
}

#[tokio::test]
async fn a_new_key_reads_the_cookies_of_the_old_one() {
    let store = MemoryStore::new();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    let both = KeyRing::new(
        Key::from_bytes(&[2; 32]).unwrap(),
        [Key::from_bytes(&[1; 32]).unwrap()],
    );
    client.app = routes().layer(SessionLayer::new(store.clone(), both));
    assert_eq!(client.text("/get/user").await, "ann");
    client.text("/set/x/1").await;
    client.app = routes().layer(SessionLayer::new(store, keys(2)));
    assert_eq!(client.text("/get/user").await, "ann", "it was signed anew");
}

#[tokio::test]
async fn a_planted_id_gains_nothing_of_the_session_that_signs_in() {
    let store = MemoryStore::new();
    let mut mallory = Client::new(store.clone());
    mallory.text("/set/cart/1").await;
    let mut victim = mallory.clone();
    victim.text("/sign-in/ann").await;
    assert_ne!(victim.cookie, mallory.cookie);
    assert_eq!(victim.text("/get/user").await, "ann");
    assert_eq!(victim.text("/get/cart").await, "1");
    assert_eq!(mallory.text("/get/user").await, "nothing");
    let answer = mallory.send("/set/user/eve").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(victim.text("/get/user").await, "ann");
}

/// The control: without the rotation the planted id would be signed in.
#[tokio::test]
async fn without_rotation_a_planted_id_is_signed_in() {
    let mut mallory = Client::new(MemoryStore::new());
    mallory.text("/set/cart/1").await;
    let mut victim = mallory.clone();
    victim.text("/set/user/ann").await;
    assert_eq!(mallory.text("/get/user").await, "ann");
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_a_rotated_id_is_no_session() {
    let store = MemoryStore::new();
    let mut old = Client::new(store);
    old.text("/set/cart/1").await;
    let mut new = old.clone();
    new.text("/sign-in/ann").await;
    assert_eq!(old.text("/get/cart").await, "1");
    tokio::time::advance(ha_session::ROTATION_GRACE).await;
    assert_eq!(old.text("/get/cart").await, "nothing");
    assert!(
        old.cookie.is_some(),
        "a late answer must not take the new cookie away"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    old.text("/set/cart/2").await;
    assert_eq!(
        new.text("/get/cart").await,
        "1",
        "another session was started"
    );
}

/// Routes on which a request waits in its handler until it is let go.
fn slow_routes(gate: Arc<Notify>, arrived: Arc<Notify>) -> Router {
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

#[tokio::test]
async fn a_slow_request_after_sign_out_brings_nothing_back_and_is_told() {
    for mode in ["read", "blind"] {
        let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let store = MemoryStore::new();
        let layer = SessionLayer::new(store.clone(), keys(1));
        let routes = slow_routes(Arc::clone(&gate), Arc::clone(&arrived));
        let mut client = Client::with(routes, layer);
        client.text("/sign-in/ann").await;
        let mut stolen = client.clone();

        let slow = client
            .app
            .clone()
            .oneshot(client.request(&format!("/slow/{mode}")));
        let slow = tokio::spawn(slow);
        arrived.notified().await;
        client.text("/sign-out").await;
        assert_eq!(client.cookie, None);
        gate.notify_one();
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT, "{mode}");
        assert!(!answer.headers().contains_key(SET_COOKIE));

        assert_eq!(stolen.text("/get/user").await, "nothing");
        assert_eq!(stolen.text("/get/slow").await, "nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_begins_after_the_end_starts_a_new_session() {
    let store = MemoryStore::new();
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;
    let mut other = client.clone();
    client.text("/sign-out").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let old = other.cookie.clone();
    other.text("/set/cart/1").await;
    assert_ne!(other.cookie, old, "a new id");
    assert_eq!(other.text("/get/cart").await, "1");
    assert_eq!(other.text("/get/user").await, "nothing");
}

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

#[tokio::test(start_paused = true)]
async fn reading_extends_the_session_once_a_tenth_of_the_window_has_passed() {
    let store = Probe::default();
    let hour = Duration::from_secs(3600);
    let layer = SessionLayer::builder(store.clone(), keys(1))
        .expiry(Expiry::new(hour, 10 * hour).unwrap())
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    tokio::time::advance(hour / 20).await;
    client.text("/get/user").await;
    assert_eq!(store.counts().2, 0);
    for _ in 0..4 {
        tokio::time::advance(hour / 2).await;
        let answer = client.send("/get/user").await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert_eq!(body(answer).await, "ann");
    }
    assert_eq!(store.counts().2, 4);
    tokio::time::advance(hour).await;
    assert_eq!(client.text("/get/user").await, "nothing");
}

#[tokio::test(start_paused = true)]
async fn no_use_lengthens_a_session_past_its_absolute_end() {
    let hour = Duration::from_secs(3600);
    let layer = SessionLayer::builder(MemoryStore::new(), keys(1))
        .expiry(Expiry::new(hour, 2 * hour).unwrap())
        .build()
        .unwrap();
    let mut client = Client::with(routes(), layer);
    client.text("/set/user/ann").await;
    for _ in 0..3 {
        tokio::time::advance(hour / 2).await;
        assert_eq!(client.text("/get/user").await, "ann");
    }
    tokio::time::advance(hour / 2).await;
    assert_eq!(client.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn a_request_dropped_in_its_commit_has_stored_all_or_nothing() {
    let store = Probe::default();
    let mut client = Client::new(store.clone());
    client.text("/set/user/ann").await;
    store.hung.store(true, Ordering::SeqCst);
    let request = client.app.clone().oneshot(client.request("/sign-in/bob"));
    let dropped = tokio::time::timeout(Duration::from_millis(20), request).await;
    assert!(dropped.is_err());
    store.hung.store(false, Ordering::SeqCst);
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn without_the_layer_the_extractor_says_so() {
    let app = routes();
    let request = Request::get("/get/x").body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body(answer).await.contains("no session layer"));
}

#[tokio::test]
async fn a_full_memory_store_refuses_new_sessions_and_keeps_the_old() {
    let store = MemoryStore::with_max(1);
    let mut first = Client::new(store.clone());
    first.text("/set/user/ann").await;
    let mut second = Client::new(store);
    let answer = second.send("/set/user/bob").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    first.text("/set/user/eve").await;
    assert_eq!(first.text("/get/user").await, "eve");
}

#[test]
fn refused_settings_are_named() {
    let builder = || SessionLayer::builder(MemoryStore::new(), keys(1));
    for (error, name) in [
        (builder().max_value(0).build().unwrap_err(), "max_value"),
        (builder().max_session(0).build().unwrap_err(), "max_session"),
        (
            builder().store_timeout(Duration::ZERO).build().unwrap_err(),
            "store_timeout",
        ),
        (
            builder().cookie_name("__Host-x").build().unwrap_err(),
            "__Host-x",
        ),
    ] {
        assert!(error.to_string().contains(name), "{error}");
    }
    let plain = SessionLayer::new(MemoryStore::new(), keys(1)).insecure_localhost();
    assert_eq!(plain.cookie_name(), "id");
}
