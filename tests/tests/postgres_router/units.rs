//! Transactions, units of work and pools of the PostgreSQL router on a real server: nothing half done, nothing left behind.

use std::time::Duration;

use ha_db::postgres::{Causal, Consistency, Error, Role, Router, Unit};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, builder, eventually, started};

async fn cluster(replicas: usize) -> Cluster {
    let bed = Postgres::primary().replicas(replicas);
    let cluster = bed.start().await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    let table = "CREATE TABLE note (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)";
    client.batch_execute(table).await.unwrap();
    cluster
}

async fn start(pool: usize) -> (Cluster, Router) {
    let cluster = cluster(0).await;
    let router = started(builder(&cluster).pool_size(pool)).await;
    (cluster, router)
}

async fn ids(cluster: &Cluster) -> Vec<i64> {
    let client = cluster.nodes[0].client().await.unwrap();
    let rows = client.query("SELECT id FROM note ORDER BY id", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn insert(client: &tokio_postgres::Client, id: i64) {
    let sql = "INSERT INTO note VALUES ($1)";
    client.execute(sql, &[&id]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_commits_what_its_parts_committed_and_nothing_else() {
    let (cluster, router) = start(2).await;
    let causal = Causal::default();
    let db = router.db(causal.clone());
    let unit = Unit::begin(&router, &causal).await.unwrap();
    insert(&unit.client().await.unwrap(), 1).await;
    let tx = db.transaction().await.unwrap();
    insert(&tx, 2).await;
    tx.commit().await.unwrap();
    let tx = db.transaction().await.unwrap();
    insert(&tx, 3).await;
    tx.rollback().await.unwrap();
    let tx = db.transaction().await.unwrap();
    insert(&tx, 4).await;
    drop(tx);
    let tx = db.transaction().await.unwrap();
    tx.batch_execute("SELECT 1/0").await.unwrap_err();
    assert!(matches!(tx.commit().await, Err(Error::RolledBack { .. })));
    // The failure was the savepoint's; the unit goes on, and its own parts see what it has done.
    insert(&db.write().await.unwrap(), 5).await;
    let conn = db.read().await.unwrap();
    let count: i64 = conn
        .query_one("SELECT count(*) FROM note", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 3);
    drop(conn);
    assert_eq!(
        ids(&cluster).await,
        [] as [i64; 0],
        "nobody else sees it yet"
    );
    let token = unit.commit().await.unwrap();
    assert!(token.lsn().0 > 0 && !token.is_primary_only());
    assert_eq!(ids(&cluster).await, [1, 2, 5]);
    // After it, transactions stand on their own again.
    let tx = db.transaction().await.unwrap();
    insert(&tx, 6).await;
    tx.commit().await.unwrap();
    assert_eq!(ids(&cluster).await, [1, 2, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_unit_leaves_neither_rows_nor_a_lost_connection() {
    let (cluster, router) = start(1).await;
    let mut backends = std::collections::BTreeSet::new();
    for id in 0..20 {
        let causal = Causal::default();
        let unit = Unit::begin(&router, &causal).await.unwrap();
        let tx = router.db(causal).transaction().await.unwrap();
        insert(&tx, id).await;
        let row = tx.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        backends.insert(row.get::<_, i32>(0));
        if id % 2 == 0 {
            tx.commit().await.unwrap();
        }
        drop(unit);
    }
    assert_eq!(ids(&cluster).await, [] as [i64; 0]);
    assert_eq!(backends.len(), 1, "rolled back and reused");
    // Who still holds a part of it when it commits makes it wait, not fail; who keeps it makes it roll back.
    let causal = Causal::default();
    let unit = Unit::begin(&router, &causal).await.unwrap();
    let tx = router.db(causal.clone()).transaction().await.unwrap();
    insert(&tx, 100).await;
    let (committed, released) = tokio::join!(unit.commit(), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tx.commit().await
    });
    released.unwrap();
    committed.unwrap();
    let unit = Unit::begin(&router, &causal).await.unwrap();
    let tx = router.db(causal).transaction().await.unwrap();
    insert(&tx, 101).await;
    assert!(matches!(unit.commit().await, Err(Error::Timeout { .. })));
    drop(tx);
    assert_eq!(ids(&cluster).await, [100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_server_refuses_is_an_error_and_applies_nothing() {
    let (cluster, router) = start(1).await;
    let tx = router.transaction().await.unwrap();
    insert(&tx, 1).await;
    // The constraint is deferred: only the COMMIT fails.
    insert(&tx, 1).await;
    let error = tx.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::Query(_)) && !error.is_unknown(),
        "{error:?}"
    );
    let causal = Causal::default();
    let unit = Unit::begin(&router, &causal).await.unwrap();
    insert(&unit.client().await.unwrap(), 2).await;
    insert(&unit.client().await.unwrap(), 2).await;
    let error = unit.commit().await.unwrap_err();
    assert!(matches!(error, Error::Query(_)), "{error:?}");
    assert_eq!(ids(&cluster).await, [] as [i64; 0]);
    // A session that ends before the answer is another matter, and says so.
    let db = router.db(Causal::default());
    let tx = db.transaction().await.unwrap();
    insert(&tx, 3).await;
    cluster.nodes[0].kill().await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(error.is_unknown() && !error.is_retryable(), "{error:?}");
    // Nobody was told of it, so reads need not wait for a primary to show it.
    assert!(
        db.token()
            .await
            .is_none_or(|token| !token.is_primary_only())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_inside_a_unit_is_refused_and_takes_nothing_out_of_the_outer_one() {
    let (cluster, router) = start(3).await;
    let causal = Causal::default();
    let db = router.db(causal.clone());
    let outer = Unit::begin(&router, &causal).await.unwrap();
    insert(&outer.client().await.unwrap(), 1).await;
    let inner = Unit::begin(&router, &causal).await;
    assert!(matches!(inner, Err(Error::UnitOpen)), "{inner:?}");
    drop(inner);
    // Had the inner one taken the outer one's place and ended, this would commit by itself.
    insert(&db.write().await.unwrap(), 2).await;
    outer.rollback().await.unwrap();
    assert_eq!(ids(&cluster).await, [] as [i64; 0]);
    // The control: after the outer one it does.
    insert(&db.write().await.unwrap(), 3).await;
    assert_eq!(ids(&cluster).await, [3]);
    drop(Unit::begin(&router, &causal).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_not_a_failed_node() {
    let cluster = cluster(1).await;
    let router = Router::builder()
        .node("a", cluster.nodes[0].conninfo())
        .node("b", cluster.nodes[1].conninfo())
        .pool_size(4)
        .fallback_reads(2)
        .pool_wait(Duration::from_millis(100))
        .build()
        .unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    eventually("the replica serves", async || {
        let node = &router.status().nodes[1];
        node.role == Role::Replica && !node.ejected
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(router.write().await.unwrap());
    }
    let error = router.write().await.unwrap_err();
    assert!(matches!(error, Error::Pool { .. }), "{error:?}");
    assert_eq!(router.status().primary.as_deref(), Some("a"));
    drop(held);
    drop(router.write().await.unwrap());
    // With the replicas gone, reads take only their share of the primary, and writes keep theirs.
    cluster.nodes[1].kill().await.unwrap();
    eventually("the replica is gone", async || {
        router.status().nodes[1].role == Role::Unreachable
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let conn = router.read().await.unwrap();
        assert_eq!(conn.node(), "a");
        held.push(conn);
    }
    assert!(matches!(router.read().await, Err(Error::NoReplica)));
    let strong = router
        .db(Causal::default())
        .read_with(Consistency::Strong)
        .await;
    drop((strong.unwrap(), router.write().await.unwrap()));
    drop(held);
    drop(router.read().await.unwrap());
}
