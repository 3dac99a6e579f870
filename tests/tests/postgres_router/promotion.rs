//! What becomes of connections when a standby is promoted: those of its own serve on, and nobody waits for what is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::poll;
use ha_db::postgres::{Causal, Conn, Consistency, Error, Router};
use ha_testbed::link::Link;
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, prepared, sees, started, write};

const POOL: usize = 3;

async fn start() -> (Cluster, Router) {
    let cluster = prepared(Postgres::primary(), 1).await;
    let builder = builder(&cluster)
        .pool_size(POOL)
        .warm_connections(0)
        .pool_wait(DEADLINE)
        .write_wait(DEADLINE);
    let router = started(builder).await;
    all_in_use(&router, 1).await;
    (cluster, router)
}

async fn pid(conn: &Conn) -> i32 {
    let row = conn.query_one("SELECT pg_backend_pid()", &[]).await;
    row.unwrap().get(0)
}

/// The server processes behind as many connections as there can be.
async fn pids(lent: impl AsyncFn() -> Result<Conn, Error>) -> BTreeSet<i32> {
    let mut held = Vec::new();
    for _ in 0..POOL {
        held.push(lent().await.unwrap());
    }
    let mut pids = BTreeSet::new();
    for conn in &held {
        pids.insert(pid(conn).await);
    }
    pids
}

async fn primary_is(router: &Router, name: &str) {
    eventually("the promoted one is primary", async || {
        router.status().primary.as_deref() == Some(name)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_of_a_standby_are_those_of_the_primary_that_it_becomes() {
    let (cluster, router) = start().await;
    let replica = cluster.nodes[1].name.clone();
    let reading = pids(async || {
        let conn = router.read().await?;
        assert_eq!(conn.node(), replica);
        Ok(conn)
    })
    .await;
    // One of them is in use while the role changes.
    let lent = router.read().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    primary_is(&router, &replica).await;
    drop(lent);
    let writing = pids(async || {
        let conn = router.write().await?;
        conn.batch_execute("CREATE TEMPORARY TABLE IF NOT EXISTS proof ()")
            .await?;
        Ok(conn)
    })
    .await;
    assert_eq!(reading, writing);
    // The control: a server that was started anew shares none with what it was.
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    let anew = pids(async || router.write().await).await;
    assert!(anew.is_disjoint(&writing), "{anew:?} {writing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_was_lent_before_its_node_was_promoted_goes_on_and_a_write_on_the_old_primary_ends()
 {
    let cluster = prepared(Postgres::primary(), 1).await;
    let link = Link::to(cluster.nodes[0].addr()).await.unwrap();
    let behind = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        link.addr().port()
    );
    let router = Router::builder()
        .node(&cluster.nodes[0].name, behind)
        .node(&cluster.nodes[1].name, cluster.nodes[1].conninfo())
        .cut_after(Duration::from_secs(600));
    let router = started(router).await;
    all_in_use(&router, 1).await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    // A busy replica may be passed over for a moment.
    let on_replica = async {
        loop {
            let reading = db.read().await.unwrap();
            if reading.node() == cluster.nodes[1].name {
                return reading;
            }
        }
    };
    let reading = tokio::time::timeout(DEADLINE, on_replica).await.unwrap();
    let writing = router.write().await.unwrap();
    assert!(sees(&reading, 1).await.unwrap());
    // Nobody tells it that it is replaced, and its clients are not told that it is gone.
    link.silence().await.unwrap();
    cluster.promote(1).await.unwrap();
    primary_is(&router, &cluster.nodes[1].name).await;
    write(&db, 2).await;
    assert!(sees(&reading, 1).await.unwrap() && sees(&reading, 2).await.unwrap());
    eventually("the write on the old primary ends", async || {
        writing.is_closed()
    })
    .await;
    assert!(!reading.is_closed());
    // The control: as far as its server is concerned, it could have gone on.
    assert!(!cluster.nodes[0].is_replica().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_connection_of_the_old_primary_is_lent_one_of_the_new() {
    let (cluster, router) = start().await;
    let mut held = Vec::new();
    for _ in 0..POOL {
        held.push(router.write().await.unwrap());
    }
    let write = router.write();
    let db = router.db(Causal::default());
    let read = db.read_with(Consistency::Strong);
    tokio::pin!(write, read);
    assert!(poll!(&mut write).is_pending() && poll!(&mut read).is_pending());
    // It neither answers nor ends, and nothing comes back to its pool.
    cluster.nodes[0].freeze().unwrap();
    cluster.promote(1).await.unwrap();
    let (write, read) = tokio::join!(write, read);
    for conn in [write.unwrap(), read.unwrap()] {
        assert_eq!(conn.node(), cluster.nodes[1].name);
        assert!(pid(&conn).await > 0);
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_become_the_primary_is_warm_before_it_does() {
    let cluster = prepared(Postgres::primary(), 2).await;
    let router = started(builder(&cluster).warm_connections(2)).await;
    all_in_use(&router, 2).await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ha-db'";
    let mut replicas = Vec::new();
    for node in &cluster.nodes[1..] {
        let client = node.client().await.unwrap();
        // The control: while there is a primary, only the probe is there.
        assert_eq!(
            client.query_one(count, &[]).await.unwrap().get::<_, i64>(0),
            1
        );
        replicas.push(client);
    }
    cluster.nodes[0].kill().await.unwrap();
    for client in &replicas {
        eventually("it is warm", async || {
            client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 3
        })
        .await;
    }
    assert!(router.status().primary.is_none());
}
