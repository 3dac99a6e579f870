//! How many connections there are, and when.

use ha_db::postgres::{Causal, Consistency, Error, Retry, Router};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, started};

async fn start() -> Cluster {
    Postgres::primary().replicas(1).start().await.unwrap()
}

async fn sessions(cluster: &Cluster, node: usize) -> i64 {
    let client = cluster.nodes[node].client().await.unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ha-db'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn hold_writes(router: &Router, node: &str) -> usize {
    let mut held = Vec::new();
    loop {
        match router.write().await {
            Ok(conn) => {
                assert_eq!(conn.node(), node);
                held.push(conn);
            }
            Err(Error::Pool { .. }) => return held.len(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_has_the_size_of_its_nodes_role_and_is_warm_before_it_is_asked() {
    let cluster = start().await;
    let builder = builder(&cluster)
        .pool_size(6)
        .replica_pool_size(2)
        .fallback_reads(1)
        .warm_connections(3)
        .pool_wait(std::time::Duration::from_millis(200))
        .write_wait(DEADLINE);
    let router = started(builder).await;
    all_in_use(&router, 1).await;
    // The probe's own, and three that nobody has asked for.
    eventually("the primary is warm", async || {
        sessions(&cluster, 0).await == 4
    })
    .await;
    assert_eq!(hold_writes(&router, "postgres-0").await, 6);
    let mut reads = Vec::new();
    for node in ["postgres-1", "postgres-1", "postgres-0"] {
        let conn = router.read().await.unwrap();
        assert_eq!(conn.node(), node, "two fit on the replica, one falls back");
        reads.push(conn);
    }
    drop(reads);
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the successor is known", async || {
        router.status().primary.as_deref() == Some("postgres-1")
    })
    .await;
    eventually("the successor is warm", async || {
        sessions(&cluster, 1).await >= 4
    })
    .await;
    assert_eq!(hold_writes(&router, "postgres-1").await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_come_at_once_to_a_cold_node_are_all_served() {
    let cluster = Postgres::primary().start().await.unwrap();
    let builder = builder(&cluster)
        .pool_size(32)
        .warm_connections(0)
        .connect_timeout(DEADLINE)
        .pool_wait(DEADLINE)
        .write_wait(DEADLINE);
    let router = started(builder).await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let db = router.db(Causal::default());
            tokio::spawn(async move {
                db.run_read(Consistency::Strong, Retry::default(), async |conn| {
                    conn.query_one("SELECT 1", &[]).await?;
                    Ok::<_, Error>(())
                })
                .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(sessions(&cluster, 0).await <= 33);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_prepared_once_per_connection_and_a_bounded_number_is_kept() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = started(builder(&cluster).pool_size(1).pool_wait(DEADLINE)).await;
    let kept = "SELECT count(*) FROM pg_prepared_statements";
    let count = async |conn: &tokio_postgres::Client| -> i64 {
        let rows = conn.simple_query(kept).await.unwrap();
        rows.iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                _ => None,
            })
            .unwrap()
    };
    for _ in 0..5 {
        let conn = router.write().await.unwrap();
        let statement = conn.prepare_cached("SELECT $1::int").await.unwrap();
        conn.query_one(&statement, &[&7]).await.unwrap();
        assert_eq!(count(&conn).await, 1);
    }
    // The control: each plain call prepares its own.
    let conn = router.write().await.unwrap();
    let plain = [
        conn.prepare("SELECT $1::int").await.unwrap(),
        conn.prepare("SELECT $1::int").await.unwrap(),
    ];
    assert_eq!(count(&conn).await, 3);
    drop(plain);
    for number in 0..400 {
        let sql = format!("SELECT {number}");
        conn.prepare_cached(&sql).await.unwrap();
    }
    eventually("the oldest are closed", async || count(&conn).await == 256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_is_dropped_leaves_no_connection() {
    let cluster = start().await;
    let router = started(builder(&cluster)).await;
    all_in_use(&router, 1).await;
    drop(router.write().await.unwrap());
    drop(router.read().await.unwrap());
    let lent = router.read().await.unwrap();
    for node in [0, 1] {
        assert!(sessions(&cluster, node).await >= 2, "a probe and a pool");
    }
    drop(router);
    // What is lent may end in peace.
    lent.simple_query("SELECT 1").await.unwrap();
    drop(lent);
    for node in [0, 1] {
        eventually("nothing is left", async || {
            sessions(&cluster, node).await == 0
        })
        .await;
    }
}
