//! Sessions in a real PostgreSQL.

use std::time::Duration;

use crate::support::{
    Client, DEADLINE, eventually, lost_in_a_merge, planted_id_is_signed_in,
    slow_request_after_sign_out,
};
use ha_db::postgres::{Builder, Router};
use ha_session::{
    Claim, Cleaner, Commit, Expiry, Load, MigrateError, Outcome, Pace, Patch, PostgresStore,
    Principal, SessionKey, Store, Version,
};
use ha_testbed::postgres::{Cluster, Postgres};
use http::StatusCode;
use tokio::task::JoinSet;

async fn bed(replicas: usize) -> (Cluster, Router) {
    let builder = Router::builder().write_wait(Duration::from_millis(500));
    bed_with(replicas, builder).await
}

async fn bed_with(replicas: usize, mut builder: Builder) -> (Cluster, Router) {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    for node in &cluster.nodes {
        builder = builder.node(node.name.clone(), node.conninfo());
    }
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    (cluster, router)
}

pub(crate) async fn migrated(replicas: usize) -> (Cluster, PostgresStore) {
    let (cluster, router) = bed(replicas).await;
    let store = PostgresStore::new(router);
    migrate(&store).await;
    (cluster, store)
}

/// Waits for a server that is too busy at first: what is tested comes later.
pub(crate) async fn migrate(store: &PostgresStore) {
    let migrating = async {
        while let Err(error) = store.migrate().await {
            eprintln!("not migrated yet: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, migrating).await.unwrap();
}

/// A router whose requests wait for a connection, and for a busy primary, for as long as it takes.
pub(crate) fn patient_router() -> Builder {
    Router::builder().pool_wait(DEADLINE).write_wait(DEADLINE)
}

pub(crate) async fn patient() -> (Cluster, PostgresStore) {
    let (cluster, router) = bed_with(0, patient_router()).await;
    let store = PostgresStore::new(router);
    migrate(&store).await;
    (cluster, store)
}

#[tokio::test]
async fn requests_merge_sign_out_is_final_and_planted_ids_gain_nothing() {
    let (_cluster, store) = migrated(0).await;
    assert_eq!(lost_in_a_merge(store.clone()).await, 0);
    assert_eq!(
        slow_request_after_sign_out(store.clone()).await,
        (StatusCode::CONFLICT, false)
    );
    assert!(!planted_id_is_signed_in(store).await);
}

/// The primary is too busy to answer in the time after which a replica would be asked. Giving up the read there would refuse a request that
/// could be served, and have the server do the same work again for the next.
#[tokio::test]
async fn a_busy_primary_is_waited_for_where_there_is_no_replica_to_ask() {
    let (cluster, store) = migrated(0).await;
    let key = SessionKey::from_parts([1, 2], [9; 32]);
    let mut patch = Patch::new();
    patch.set("user", &b"ann"[..]);
    let create = Commit::create(key, patch, Expiry::default(), 1000);
    let Outcome::Committed(record) = store.commit(create).await.unwrap() else {
        panic!("not committed");
    };
    let mut admin = cluster.nodes[0].client().await.unwrap();
    let busy = admin.transaction().await.unwrap();
    busy.batch_execute("lock table ha_session in access exclusive mode")
        .await
        .unwrap();
    let read = {
        let store = store.clone();
        tokio::spawn(async move { store.load(key, record.version).await })
    };
    tokio::time::sleep(PostgresStore::PRIMARY_WAIT * 2).await;
    busy.rollback().await.unwrap();
    let load = read.await.unwrap();
    assert!(matches!(load, Load::Found(_)), "{load:?}");
}

#[tokio::test]
async fn many_nodes_migrate_at_once_and_a_newer_schema_is_refused() {
    let (cluster, router) = bed(0).await;
    let mut nodes = JoinSet::new();
    for _ in 0..8 {
        let store = PostgresStore::new(router.clone());
        nodes.spawn(async move { store.migrate().await });
    }
    for result in nodes.join_all().await {
        result.unwrap();
    }
    let store = PostgresStore::new(router);
    let mut client = Client::new(store.clone());
    client.text("/sign-in/ann").await;
    store.migrate().await.unwrap();
    assert_eq!(client.text("/get/user").await, "ann");

    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("insert into ha_session_schema values (99)")
        .await
        .unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(
        matches!(error, MigrateError::Newer { found: 99, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_future_format_is_unknown_and_not_an_empty_session() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store);
    client.text("/set/user/ann").await;
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("update ha_session set format = 9")
        .await
        .unwrap();
    client.assert_unknown("/get/user").await;
    client.assert_unknown("/set/user/bob").await;
    admin
        .batch_execute("update ha_session set format = 1")
        .await
        .unwrap();
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn a_sign_out_ends_a_session_of_a_future_format_too() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;
    let mut copy = client.clone();
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("update ha_session set format = 9")
        .await
        .unwrap();
    client.text("/sign-out").await;
    assert_eq!(copy.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn only_sessions_long_gone_are_purged() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store.clone());
    client.text("/sign-in/ann").await;
    for user in ["bob", "eve", "joe"] {
        let mut other = Client::new(store.clone());
        other.text(&format!("/sign-in/{user}")).await;
        other.text("/sign-out").await;
    }
    assert_eq!(store.purge(100).await.unwrap(), 0, "their ends are fresh");
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute(
            "update ha_session set idle_until = now() - interval '2 hours' where state = 2",
        )
        .await
        .unwrap();
    assert_eq!(store.purge(2).await.unwrap(), 2, "in batches");
    assert_eq!(store.purge(2).await.unwrap(), 1);
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn without_a_primary_a_replica_answers_what_it_can_prove_and_nothing_else() {
    let (cluster, store) = migrated(1).await;
    let mut ann = Client::new(store.clone());
    ann.text("/sign-in/ann").await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.pause_replay(1).await.unwrap();
    let mut before = ann.clone();
    ann.text("/set/note/new").await;
    let mut late = Client::new(store);
    late.text("/sign-in/late").await;

    cluster.nodes[0].kill().await.unwrap();
    assert_eq!(
        before.patient("/get/user").await,
        "ann",
        "told nothing that the replica lacks"
    );
    ann.assert_unknown("/get/user").await;
    late.assert_unknown("/get/user").await;
    before.assert_unknown("/set/note/x").await;

    cluster.resume_replay(1).await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the new primary answers", async || {
        before.send("/get/user").await == (StatusCode::OK, "ann".into())
    })
    .await;
    before.patient("/set/note/after").await;
    assert_eq!(before.patient("/get/note").await, "after");
}

/// Rows of sessions that ended two hours ago.
const ENDED: &str = "insert into ha_session (key, format, version, state, idle_until, absolute_until, data) \
     select sha256(n::text::bytea), 1, 1, 0, now() - interval '2 hours', now() - interval '2 hours', '{}' \
     from generate_series(1, 5000) n";

#[tokio::test]
async fn two_cleaners_keep_one_pace_and_delete_each_row_once() {
    let (cluster, store) = migrated(0).await;
    let mut client = Client::new(store.clone());
    client.text("/sign-in/ann").await;
    let admin = cluster.nodes[0].client().await.unwrap();
    admin.batch_execute(ENDED).await.unwrap();
    let begun = tokio::time::Instant::now();
    let pause = Duration::from_millis(50);
    let pace = Pace::new(500, pause).unwrap();
    let cleaners = [store.clean(pace), store.clean(pace)];
    let rows = async || {
        let row = admin.query_one("select count(*) from ha_session", &[]);
        row.await.unwrap().get::<_, i64>(0)
    };
    eventually("what ended is deleted", async || rows().await == 1).await;
    assert!(begun.elapsed() >= 9 * pause, "ten batches at one pace");
    eventually("each row is counted once", async || {
        cleaners.iter().map(Cleaner::deleted).sum::<u64>() == 5000
    })
    .await;
    assert_eq!(client.text("/get/user").await, "ann");

    // A dropped cleaner cleans no more.
    drop(cleaners);
    let now = "update ha_session_pace set next_at = now()";
    admin.batch_execute(now).await.unwrap();
    admin.batch_execute(ENDED).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(pause).await;
        assert_eq!(rows().await, 5001);
    }
}

#[tokio::test]
async fn a_cleaner_never_waits_for_a_row_that_somebody_is_at() {
    let (cluster, store) = migrated(0).await;
    let admin = cluster.nodes[0].client().await.unwrap();
    admin.batch_execute(ENDED).await.unwrap();
    let other = cluster.nodes[0].client().await.unwrap();
    let hold = "begin; select key from ha_session order by idle_until limit 1 for update";
    other.batch_execute(hold).await.unwrap();
    assert_eq!(store.purge(10_000).await.unwrap(), 4999);
    other.batch_execute("commit").await.unwrap();
    assert_eq!(store.purge(10_000).await.unwrap(), 1);
}

#[tokio::test]
async fn nodes_of_the_schema_before_go_on_and_lose_nobodys_revocation() {
    let (cluster, router) = bed(0).await;
    let admin = cluster.nodes[0].client().await.unwrap();
    let before = include_str!("../../../ha-session/src/store/postgres/schema_1.sql");
    let first = "create table ha_session_schema (version int primary key); \
         insert into ha_session_schema values (1);";
    admin
        .batch_execute(&[before, first].concat())
        .await
        .unwrap();
    let key = |byte| SessionKey::from_parts([0, 0], [byte; 32]);
    let old_node = async |commit: &str| {
        let call = format!("select outcome from ha_session_commit_1({commit})");
        let row = admin.query_one(&call, &[]).await.unwrap();
        row.get::<_, String>(0)
    };
    let byte = |byte: u8| format!("decode(repeat('{byte:02x}', 32), 'hex')");
    let rest = "'{\"a\": \"\"}', '{}', '{}', 60000, 60000, 10000, 1000";
    let create = format!("{}, true, null, {rest}", byte(1));
    assert_eq!(old_node(&create).await, "committed");

    let store = PostgresStore::new(router);
    store.migrate().await.unwrap();
    let found = store.load(key(1), Version::ZERO).await;
    assert!(matches!(found, Load::Found(record) if record.owner.is_none()));
    let ann = Principal::new("ann").unwrap();
    let hour = Duration::from_secs(3600);
    let expiry = Expiry::new(hour, hour).unwrap();
    let mut claim = Commit::update(key(1), Patch::new(), expiry, 1000);
    claim.claim = Some(Claim::new(ann.clone(), None));
    let claimed = store.commit(claim).await.unwrap();
    assert!(matches!(claimed, Outcome::Committed(_)));

    let rotate = format!("{}, false, {}, {rest}", byte(1), byte(2));
    assert_eq!(old_node(&rotate).await, "committed");
    let found = store.load(key(2), Version::ZERO).await;
    assert!(matches!(found, Load::Found(record) if record.owner.is_some()));
    store.revoke_all(ann, None).await.unwrap();
    let update = format!("{}, false, null, {rest}", byte(2));
    assert_eq!(old_node(&update).await, "destroyed");
}
