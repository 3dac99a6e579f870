//! The adapter below tower-sessions' own sessions and layers, with tower-sessions' own store as the control that fails.
#![cfg(all(feature = "tower-sessions-014", feature = "tower-sessions-015"))]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ha_session::adapter::TowerSessions;
use ha_session::{
    Commit, Expiry, Load, MemoryStore, Outcome, SessionKey, Store, StoreError, Version,
};

/// The memory store, counted and breakable.
#[derive(Debug, Clone, Default)]
struct Probe {
    memory: MemoryStore,
    writes: Arc<AtomicUsize>,
    touches: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
}

impl Probe {
    fn check(&self) -> Result<(), StoreError> {
        match self.down.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::Unavailable {
                store: "probe",
                source: "switched off".into(),
            }),
        }
    }
}

impl Store for Probe {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        match self.check() {
            Ok(()) => self.memory.load(key, floor).await,
            Err(error) => Load::Unknown(error),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.check()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.memory.commit(commit).await
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.check()?;
        self.memory.destroy(key).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.check()?;
        self.touches.fetch_add(1, Ordering::SeqCst);
        self.memory.touch(key, expiry).await
    }
}

/// The same tests for each version of tower-sessions.
macro_rules! of_version {
    ($module:ident, $crate_name:ident) => {
        mod $module {
            use std::time::Duration;

            use axum::Router;
            use axum::body::{Body, to_bytes};
            use axum::routing::get;
            use http::header::{COOKIE, SET_COOKIE};
            use http::{Request, StatusCode};
            use tower::ServiceExt as _;
            use $crate_name::session::Id;
            use $crate_name::{
                ExpiredDeletion as _, Expiry, MemoryStore as Theirs, Session, SessionManagerLayer,
                SessionStore,
            };

            use super::*;

            const HOUR: i64 = 3600;

            fn hour() -> Option<Expiry> {
                let hour = Duration::from_secs(HOUR as u64);
                Some(Expiry::OnInactivity(hour.try_into().unwrap()))
            }

            fn session(id: Option<Id>, store: &Arc<impl SessionStore>) -> Session {
                Session::new(id, Arc::clone(store), hour())
            }

            async fn signed_in(store: &Arc<impl SessionStore>) -> Id {
                let session = session(None, store);
                session.insert("user", "ann").await.unwrap();
                session.save().await.unwrap();
                session.id().unwrap()
            }

            async fn text(store: &Arc<impl SessionStore>, id: Id, name: &str) -> Option<String> {
                session(Some(id), store).get(name).await.unwrap()
            }

            /// Two requests at once, each with a change of its own. Says what is there afterwards.
            async fn after_two_at_once(store: Arc<impl SessionStore>) -> Vec<Option<String>> {
                let id = signed_in(&store).await;
                let (one, two) = (session(Some(id), &store), session(Some(id), &store));
                one.insert("one", "1").await.unwrap();
                two.insert("two", "2").await.unwrap();
                two.remove::<String>("user").await.unwrap();
                one.save().await.unwrap();
                two.save().await.unwrap();
                let names = ["one", "two", "user"];
                let mut found = Vec::new();
                for name in names {
                    found.push(text(&store, id, name).await);
                }
                found
            }

            #[tokio::test]
            async fn concurrent_changes_merge_and_in_their_store_they_do_not() {
                let ours = Arc::new(TowerSessions::new(MemoryStore::new()));
                let merged = [Some("1".to_owned()), Some("2".to_owned()), None];
                assert_eq!(after_two_at_once(ours).await, merged);
                let lost = [None, Some("2".to_owned()), None];
                assert_eq!(after_two_at_once(Arc::new(Theirs::default())).await, lost);
            }

            /// A request that saves after the sign-out. Says whether it was told, and whether the session is back.
            async fn late_save(store: Arc<impl SessionStore>) -> (bool, bool) {
                let id = signed_in(&store).await;
                let slow = session(Some(id), &store);
                slow.insert("slow", "late").await.unwrap();
                session(Some(id), &store).flush().await.unwrap();
                let told = slow.save().await.is_err();
                let back = text(&store, id, "user").await.is_some();
                (told, back)
            }

            #[tokio::test]
            async fn a_sign_out_is_final_and_in_their_store_it_is_not() {
                let ours = Arc::new(TowerSessions::new(MemoryStore::new()));
                assert_eq!(late_save(ours).await, (true, false));
                let theirs = Arc::new(Theirs::default());
                assert_eq!(late_save(theirs).await, (false, true));
            }

            #[tokio::test]
            async fn unknown_is_an_error_and_not_no_session() {
                let probe = Probe::default();
                let store = Arc::new(TowerSessions::new(probe.clone()));
                let id = signed_in(&store).await;
                probe.down.store(true, Ordering::SeqCst);
                let error = SessionStore::load(&*store, &id).await.unwrap_err();
                assert!(error.to_string().contains("switched off"), "{error}");
                assert!(SessionStore::delete(&*store, &id).await.is_err());
                probe.down.store(false, Ordering::SeqCst);
                assert_eq!(text(&store, id, "user").await.as_deref(), Some("ann"));
            }

            #[tokio::test]
            async fn a_new_id_is_never_one_that_was_used_before() {
                let store = Arc::new(TowerSessions::new(MemoryStore::new()));
                let id = signed_in(&store).await;
                let flushed = session(Some(id), &store);
                flushed.flush().await.unwrap();
                flushed.insert("user", "bob").await.unwrap();
                flushed.save().await.unwrap();
                assert_ne!(flushed.id().unwrap(), id);
                assert_eq!(text(&store, id, "user").await, None);

                let id = flushed.id().unwrap();
                let cycled = session(Some(id), &store);
                cycled.cycle_id().await.unwrap();
                cycled.save().await.unwrap();
                let next = cycled.id().unwrap();
                assert_eq!(text(&store, id, "user").await, None);
                assert_eq!(text(&store, next, "user").await.as_deref(), Some("bob"));
                session(Some(next), &store)
                    .insert("more", "1")
                    .await
                    .unwrap();
                cycled.insert("again", "1").await.unwrap();
                cycled.save().await.unwrap();
                assert_eq!(text(&store, next, "again").await.as_deref(), Some("1"));
            }

            #[tokio::test]
            async fn clearing_removes_what_others_wrote_too() {
                let store = Arc::new(TowerSessions::new(MemoryStore::new()));
                let id = signed_in(&store).await;
                let clearing = session(Some(id), &store);
                clearing.clear().await;
                clearing.insert("kept", "1").await.unwrap();
                clearing.save().await.unwrap();
                assert_eq!(text(&store, id, "user").await, None);
                assert_eq!(text(&store, id, "kept").await.as_deref(), Some("1"));
            }

            #[tokio::test(start_paused = true)]
            async fn a_save_without_changes_writes_nothing_and_extends_in_time() {
                let probe = Probe::default();
                let store = Arc::new(TowerSessions::new(probe.clone()));
                let id = signed_in(&store).await;
                let writes = probe.writes.load(Ordering::SeqCst);
                for (step, touches) in [(0, 0), (200, 0), (200, 1), (3000, 2), (3000, 3)] {
                    tokio::time::advance(Duration::from_secs(step)).await;
                    let read = session(Some(id), &store);
                    let user: Option<String> = read.get("user").await.unwrap();
                    assert_eq!(user.as_deref(), Some("ann"), "after {step} s");
                    read.save().await.unwrap();
                    assert_eq!(
                        probe.touches.load(Ordering::SeqCst),
                        touches,
                        "after {step} s"
                    );
                }
                assert_eq!(probe.writes.load(Ordering::SeqCst), writes);
                tokio::time::advance(Duration::from_secs(HOUR as u64)).await;
                assert_eq!(text(&store, id, "user").await, None);
                let memory = TowerSessions::new(MemoryStore::new());
                memory.delete_expired().await.unwrap();
            }

            #[tokio::test]
            async fn what_is_too_large_or_unnameable_is_refused() {
                let store = Arc::new(TowerSessions::new(MemoryStore::new()).max_session(100));
                let id = signed_in(&store).await;
                for (name, value) in [("big", "x".repeat(200)), ("a\nb", "1".to_owned())] {
                    let session = session(Some(id), &store);
                    session.insert(name, value).await.unwrap();
                    assert!(session.save().await.is_err(), "{name:?}");
                }
                assert_eq!(text(&store, id, "user").await.as_deref(), Some("ann"));
            }

            #[tokio::test]
            async fn their_layer_works_on_it() {
                let count = async |session: Session| {
                    let n = session.get::<u32>("n").await.unwrap().unwrap_or(0) + 1;
                    session.insert("n", n).await.unwrap();
                    n.to_string()
                };
                let out = async |session: Session| session.flush().await.unwrap();
                let layer = SessionManagerLayer::new(TowerSessions::new(MemoryStore::new()));
                let app = Router::new()
                    .route("/", get(count))
                    .route("/out", get(out))
                    .layer(layer.with_expiry(hour().unwrap()));
                let mut cookie = String::new();
                for (path, expected) in [("/", "1"), ("/", "2"), ("/out", ""), ("/", "1")] {
                    let request = Request::get(path).header(COOKIE, &cookie);
                    let request = request.body(Body::empty()).unwrap();
                    let answer = app.clone().oneshot(request).await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                    if let Some(set) = answer.headers().get(SET_COOKIE) {
                        let set = set.to_str().unwrap();
                        cookie = set.split(';').next().unwrap().to_owned();
                    }
                    let body = to_bytes(answer.into_body(), 1000).await.unwrap();
                    assert_eq!(&body[..], expected.as_bytes());
                }
            }
        }
    };
}

of_version!(v014, tower_sessions_014);
of_version!(v015, tower_sessions_015);
