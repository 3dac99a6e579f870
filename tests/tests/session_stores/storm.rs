//! Many requests of one session or one user at once, over many seeds: changes with one sign-out among them, and sign-ins with a change of
//! the password among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use ha_db::postgres::Router as Database;
use ha_session::{
    Commit, Expiry, Load, MemoryStore, Outcome, Patch, PostgresStore, Principal, Session,
    SessionError, SessionInfo, SessionKey, SessionLayer, Store, StoreError, Version,
};
use ha_testbed::postgres::Postgres;
use http::StatusCode;
use tokio::task::JoinSet;

use crate::postgres::migrated;
use crate::support::{Client, DEADLINE, keys};
use crate::tiered::Bed;

/// Changes of different names and, in every other seed, a sign-out among them. Says how many were acknowledged and are missing
/// although nobody signed out, and whether anything of the session can be seen after the sign-out.
async fn storm(store: impl Store, seed: u64, requests: usize) -> (usize, bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut client = Client::new(store);
    client.patient("/sign-in/ann").await;
    let signs_out = rng.bool();
    let at = rng.usize(0..requests);
    let mut tasks = JoinSet::new();
    for n in 0..requests {
        let mut one = client.clone();
        let out = signs_out && n == at;
        let turns = rng.usize(0..8);
        tasks.spawn(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            if out {
                one.patient("/sign-out").await;
                return None;
            }
            let path = format!("/set/n{n}/{n}");
            let deadline = tokio::time::Instant::now() + DEADLINE;
            let mut answer = one.send(&path).await;
            // Not confirmed in time on a busy machine: the same again is the same.
            while answer.0 == StatusCode::SERVICE_UNAVAILABLE {
                assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
                answer = one.send(&path).await;
            }
            let (status, text) = answer;
            let refused = signs_out && status == StatusCode::CONFLICT;
            assert!(status == StatusCode::OK || refused, "seed {seed}: {text}");
            (status == StatusCode::OK).then_some(n)
        });
    }
    let done: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let mut lost = 0;
    let mut seen = client.patient("/get/user").await == "ann";
    for n in done {
        let there = client.clone().patient(&format!("/get/n{n}")).await == n.to_string();
        lost += usize::from(!there && !signs_out);
        seen |= there;
    }
    (lost, signs_out && seen)
}

async fn storms(store: impl Store + Clone, seeds: u64, requests: usize) {
    for seed in 0..seeds {
        let (lost, back) = storm(store.clone(), seed, requests).await;
        assert_eq!((lost, back), (0, false), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_merge_or_are_gone_for_ever_in_memory() {
    storms(MemoryStore::with_max(1_000_000), 1000, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_merge_or_are_gone_for_ever_in_redis() {
    let bed = Bed::single().await;
    storms(bed.redis_store(), 60, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_merge_or_are_gone_for_ever_in_postgresql_and_both() {
    let bed = Bed::single().await;
    storms(bed.store.postgres().clone(), 20, 100).await;
    storms(bed.store.clone(), 20, 100).await;
}

/// The password, by the number of its change.
#[derive(Clone, Default)]
struct Password(Arc<AtomicU64>);

/// An app in which checking the password takes a while.
fn app(store: impl Store, password: &Password) -> Client {
    let (checked, changed) = (password.clone(), password.clone());
    let login = async move |session: Session, Path(turns): Path<u32>| {
        let password = checked.0.load(Ordering::SeqCst);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        session.set_principal_on("ann", "somewhere")?;
        session.insert("password", password.to_string())?;
        Ok::<_, SessionError>("in")
    };
    let change = async move |session: Session| {
        changed.0.fetch_add(1, Ordering::SeqCst);
        session.revoke_all_of("ann").await?;
        Ok::<_, SessionError>("changed")
    };
    let routes = Router::new()
        .route("/login/{turns}", get(login))
        .route("/change", get(change))
        .route(
            "/password",
            get(async |session: Session| {
                let password: Option<String> = session.get("password").await?;
                Ok::<_, SessionError>(password.unwrap_or_else(|| "nothing".into()))
            }),
        );
    Client::of(routes.layer(SessionLayer::new(store, keys())))
}

/// Sign-ins, and two changes of the password among them. How many of those signed in used an old password.
async fn slipped(store: impl Store, seed: u64) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let password = Password::default();
    let client = app(store, &password);
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let mut one = client.clone();
        let (turns, before) = (rng.u32(0..30), rng.usize(0..30));
        tasks.spawn(async move {
            for _ in 0..before {
                tokio::task::yield_now().await;
            }
            if n % 20 == 10 {
                one.patient("/change").await;
                return None;
            }
            let (status, text) = one.send(&format!("/login/{turns}")).await;
            let refused = status == StatusCode::SERVICE_UNAVAILABLE;
            assert!(status == StatusCode::OK || refused, "seed {seed}: {text}");
            (status == StatusCode::OK).then_some(one)
        });
    }
    let mut slipped = 0;
    for mut one in tasks.join_all().await.into_iter().flatten() {
        let seen = one.patient("/password").await;
        slipped += usize::from(seen != "nothing" && seen != "2");
    }
    slipped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sign_in_slips_past_a_change_of_the_password() {
    let bed = Bed::single().await;
    for seed in 0..100 {
        assert_eq!(slipped(MemoryStore::new(), seed).await, 0, "seed {seed}");
    }
    for seed in 0..20 {
        assert_eq!(slipped(bed.redis_store(), seed).await, 0, "seed {seed}");
        assert_eq!(slipped(bed.store.clone(), seed).await, 0, "seed {seed}");
    }
    let postgres = bed.store.postgres().clone();
    for seed in 0..10 {
        assert_eq!(slipped(postgres.clone(), seed).await, 0, "seed {seed}");
    }
}

/// The control: revokes by going through the list, as one does without an epoch.
#[derive(Clone)]
struct OneByOne<S>(S);

impl<S: Store> Store for OneByOne<S> {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        self.0.load(key, floor).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.0.commit(commit).await
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.0.destroy(key).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.0.touch(key, expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.0.list(principal).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        _: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        for info in self.0.list(principal.clone()).await? {
            self.0.revoke(principal.clone(), info.key).await?;
        }
        Ok(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_ins_slip_past_whoever_revokes_one_by_one() {
    let (_cluster, store) = migrated(0).await;
    let mut all = 0;
    for seed in 0..50 {
        all += slipped(OneByOne(store.clone()), seed).await;
        if all > 0 {
            break;
        }
    }
    assert!(all > 0, "the control");
}

const IDLE: Duration = Duration::from_secs(5);
/// How long it is looked at: a session that lives as long is one of five minutes more.
const LONGEST: Duration = Duration::from_secs(25);

/// A session of five seconds in a PostgreSQL whose clock is so many minutes ahead of this app's: how long the app sees it. `naive` writes its end by the app's clock, as an app that keeps time itself does.
async fn alive(minutes: i32, naive: bool) -> Duration {
    let cluster = Postgres::primary().start().await.unwrap();
    let node = &cluster.nodes[0];
    let admin = node.client().await.unwrap();
    let shifted = format!(
        "create schema shifted; \
         create function shifted.clock_timestamp() returns timestamptz language sql volatile as \
         $$select pg_catalog.clock_timestamp() + interval '{minutes} minutes'$$; \
         create function shifted.now() returns timestamptz language sql stable as \
         $$select pg_catalog.now() + interval '{minutes} minutes'$$"
    );
    admin.batch_execute(&shifted).await.unwrap();
    // What is looked up by name is found there first.
    let path = "options='-c search_path=shifted,public,pg_catalog'";
    let router = Database::builder()
        .node(node.name.clone(), format!("{} {path}", node.conninfo()))
        .connect_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    let store = PostgresStore::new(router);
    store.migrate().await.unwrap();
    let key = SessionKey::from_parts([0, 0], [1; 32]);
    let expiry = Expiry::new(IDLE, 100 * IDLE).unwrap();
    let create = Commit::create(key, Patch::new(), expiry, 1000);
    let begun = tokio::time::Instant::now();
    let created = store.commit(create).await.unwrap();
    assert!(matches!(created, Outcome::Committed(_)));
    if naive {
        let end = "update shifted.ha_session set idle_until = $1";
        let at = std::time::SystemTime::now() + IDLE;
        assert_eq!(admin.execute(end, &[&at]).await.unwrap(), 1);
    }
    let mut last = store.load(key, Version::ZERO).await;
    while begun.elapsed() < LONGEST && !matches!(last, Load::Gone(_)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        last = store.load(key, Version::ZERO).await;
    }
    // A server that is too busy to answer says nothing of clocks.
    assert!(!matches!(last, Load::Unknown(_)), "{last:?}");
    begun.elapsed()
}

/// The app sends durations and gets durations: the clocks may be as far apart as they like, either way.
#[tokio::test]
async fn clocks_minutes_apart_sign_nobody_out_and_keep_nobody_in_and_where_the_app_keeps_time_they_do()
 {
    for minutes in [5, -5] {
        let seen = alive(minutes, false).await;
        assert!(
            (IDLE..LONGEST).contains(&seen),
            "{minutes} minutes: {seen:?}"
        );
    }
    assert!(alive(5, true).await < IDLE, "the control is signed out");
    assert!(alive(-5, true).await >= LONGEST, "the control stays in");
}
