//! The flow, seen by browsers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use ha_session::{
    Commit, Expiry, Key, Load, MemoryStore, Outcome, Principal, SessionInfo, SessionKey, Store,
    StoreError, Version,
};
use http::header::{CONTENT_TYPE, COOKIE, ORIGIN, SET_COOKIE, USER_AGENT};
use http::{Request, StatusCode};
use login::{Users, app, axum_login_app};
use tower::ServiceExt as _;

#[derive(Clone)]
struct Browser {
    app: Router,
    agent: &'static str,
    cookie: Option<String>,
    /// How new a state it was told of.
    version: Option<String>,
    from: Option<(&'static str, &'static str)>,
}

impl Browser {
    fn new(app: &Router, agent: &'static str) -> Self {
        Self {
            app: app.clone(),
            agent,
            cookie: None,
            version: None,
            from: None,
        }
    }

    async fn send(&mut self, request: http::request::Builder, body: &str) -> (StatusCode, String) {
        let mut request = request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, self.agent)
            .header("host", "shop.example");
        for cookie in [&self.cookie, &self.version].into_iter().flatten() {
            request = request.header(COOKIE, cookie);
        }
        if let Some((name, value)) = self.from {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = self.app.clone().oneshot(request).await.unwrap();
        for set in answer.headers().get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let held = (!value.is_empty()).then(|| pair.to_owned());
            if name.ends_with("-v") {
                self.version = held;
            } else {
                self.cookie = held;
            }
        }
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 100_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&mut self, path: &str) -> (StatusCode, String) {
        self.send(Request::get(path), "").await
    }

    async fn post(&mut self, path: &str, form: &str) -> StatusCode {
        self.send(Request::post(path), form).await.0
    }

    async fn login(&mut self) {
        let status = self.post("/login", "name=ann&password=secret").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }

    async fn who(&mut self) -> String {
        self.get("/").await.1
    }
}

fn shop() -> Router {
    let key = Key::from_bytes(&[7; 32]).unwrap();
    app(MemoryStore::new(), key, Users::of("ann", "secret")).unwrap()
}

#[tokio::test]
async fn every_sign_in_gives_a_new_id_and_a_wrong_password_gives_none() {
    let mut browser = Browser::new(&shop(), "phone");
    let status = browser.post("/login", "name=ann&password=wrong").await;
    assert_eq!((status, &browser.cookie), (StatusCode::UNAUTHORIZED, &None));
    browser.login().await;
    let first = browser.clone().cookie;
    let mut planted = browser.clone();
    browser.login().await;
    assert_ne!(browser.cookie, first, "signing in again as well");
    assert_eq!(browser.who().await, "ann");
    let status = planted.post("/password", "old=secret&new=mine").await;
    assert_ne!(
        status,
        StatusCode::NO_CONTENT,
        "the id before takes no writes"
    );
}

#[tokio::test]
async fn signing_out_ends_the_session_for_every_copy_of_the_cookie() {
    let mut browser = Browser::new(&shop(), "phone");
    browser.login().await;
    let mut copy = browser.clone();
    assert_eq!(browser.post("/logout", "").await, StatusCode::NO_CONTENT);
    assert_eq!(browser.cookie, None);
    assert_eq!(copy.get("/").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn logging_out_everywhere_reaches_every_device() {
    let shop = shop();
    let (mut phone, mut laptop) = (Browser::new(&shop, "phone"), Browser::new(&shop, "laptop"));
    phone.login().await;
    laptop.login().await;
    assert_eq!(
        phone.post("/logout-everywhere", "").await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(phone.get("/").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(laptop.get("/").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn changing_the_password_asks_for_the_old_one_and_leaves_this_session_alone() {
    let shop = shop();
    let (mut phone, mut thief) = (Browser::new(&shop, "phone"), Browser::new(&shop, "cave"));
    phone.login().await;
    thief.login().await;
    let before = phone.cookie.clone();
    let status = thief.post("/password", "old=guess&new=mine").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let status = phone.post("/password", "old=secret&new=better").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_ne!(phone.cookie, before, "under a new id");
    assert_eq!(phone.who().await, "ann");
    assert_eq!(thief.get("/").await.0, StatusCode::UNAUTHORIZED);
    let status = thief.post("/login", "name=ann&password=secret").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the old password is none");
}

/// A store that fails one revocation, the n-th.
#[derive(Clone)]
struct Failing {
    memory: MemoryStore,
    left: Arc<AtomicUsize>,
}

impl Store for Failing {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        self.memory.load(key, floor).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.memory.commit(commit).await
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.memory.destroy(key).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.memory.touch(key, expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.memory.list(principal).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(StoreError::Unavailable {
                store: "failing",
                source: "once".into(),
            });
        }
        self.memory.revoke_all(principal, keep).await
    }
}

#[tokio::test]
async fn a_store_that_fails_while_the_password_is_changed_leaves_no_thief_in() {
    for failing in [1, 2] {
        let store = Failing {
            memory: MemoryStore::new(),
            left: Arc::new(AtomicUsize::new(failing)),
        };
        let key = Key::from_bytes(&[7; 32]).unwrap();
        let shop = app(store, key, Users::of("ann", "secret")).unwrap();
        let (mut phone, mut thief) = (Browser::new(&shop, "phone"), Browser::new(&shop, "cave"));
        phone.login().await;
        thief.login().await;
        let change = "old=secret&new=better";
        let status = phone.post("/password", change).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        if failing == 1 {
            // Nothing was done, and the same request does all of it.
            assert_eq!(
                phone.post("/password", change).await,
                StatusCode::NO_CONTENT
            );
        }
        assert_eq!(thief.get("/").await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(phone.who().await, "ann");
    }
}

#[tokio::test]
async fn a_user_sees_the_devices_and_ends_one() {
    let shop = shop();
    let (mut phone, mut laptop) = (Browser::new(&shop, "phone"), Browser::new(&shop, "laptop"));
    phone.login().await;
    laptop.login().await;
    let (_, list) = phone.get("/devices").await;
    assert!(list.contains("phone") && list.contains("laptop"), "{list}");
    let other = list
        .split("],[")
        .find(|entry| entry.contains("laptop"))
        .unwrap();
    let id = other.split('"').nth(1).unwrap();
    let status = phone.post(&format!("/devices/{id}/end"), "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(laptop.get("/").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(phone.who().await, "ann");
    let status = phone.post("/devices/nonsense/end", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_another_site_sends_changes_nothing() {
    let mut browser = Browser::new(&shop(), "phone");
    browser.login().await;
    for forged in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        (ORIGIN.as_str(), "https://evil.example"),
        (ORIGIN.as_str(), "https://shop.example.evil.example"),
        (ORIGIN.as_str(), "null"),
    ] {
        browser.from = Some(forged);
        let status = browser.post("/logout", "").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{forged:?}");
        assert_eq!(browser.who().await, "ann", "{forged:?}");
    }
    for own in [
        ("sec-fetch-site", "same-origin"),
        (ORIGIN.as_str(), "https://shop.example"),
    ] {
        browser.from = Some(own);
        browser.login().await;
        assert_eq!(
            browser.post("/logout", "").await,
            StatusCode::NO_CONTENT,
            "{own:?}"
        );
    }
}

#[tokio::test]
async fn axum_login_works_on_a_store_of_ours() {
    let mut browser = Browser::new(&axum_login_app(MemoryStore::new()), "phone");
    let status = browser.post("/login", "name=ann&password=wrong").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    browser.login().await;
    // axum-login gives a new id to the first sign-in of a session only, unlike `Session::set_principal`.
    assert!(browser.cookie.as_ref().unwrap().starts_with("__Host-id="));
    assert_eq!(browser.who().await, "ann");
    let mut copy = browser.clone();
    assert_eq!(browser.post("/logout", "").await, StatusCode::NO_CONTENT);
    assert_eq!(copy.get("/").await.0, StatusCode::UNAUTHORIZED);
}
