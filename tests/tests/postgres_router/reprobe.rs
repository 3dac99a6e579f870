//! What has the nodes asked again at once, and what does not.

use std::time::Duration;

use ha_db::postgres::{Causal, Error, Lsn, Retry, Router, TransactionOptions};
use ha_testbed::postgres::{Cluster, Postgres};
use tokio_postgres::error::SqlState;

use crate::support::{DEADLINE, builder, eventually, prepared, started};

/// A router that asks by itself every five minutes.
async fn slow(cluster: &Cluster) -> Router {
    let builder = builder(cluster)
        .probe_interval(Duration::from_secs(300))
        .max_lag(Duration::from_secs(600))
        .write_wait(DEADLINE);
    started(builder).await
}

fn known(router: &Router) -> Option<Lsn> {
    router.status().nodes[0].lsn
}

/// Moves the primary's position on, and says where it is.
async fn advance(client: &tokio_postgres::Client) -> Lsn {
    client
        .batch_execute("INSERT INTO note SELECT coalesce(max(id), 0) + 1 FROM note")
        .await
        .unwrap();
    let flushed = "SELECT pg_current_wal_flush_lsn()::text";
    let row = client.query_one(flushed, &[]).await.unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

/// Three routers that have been started, and ask nobody any more.
async fn resting(cluster: &Cluster, client: &tokio_postgres::Client) -> [Router; 3] {
    let routers = [
        slow(cluster).await,
        slow(cluster).await,
        slow(cluster).await,
    ];
    for router in &routers {
        // A pooled connection that is made anew would ask as well.
        drop(router.write().await.unwrap());
    }
    let mut rests = 0;
    eventually("all of them rest", async || {
        let now = advance(client).await;
        let rest = routers.iter().all(|router| known(router) < Some(now));
        rests = if rest { rests + 1 } else { 0 };
        // Half a second: many times what follows one probe by another at the start.
        rests == 50
    })
    .await;
    routers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_answer_and_a_shutdown_have_nodes_asked_again_at_once() {
    let cluster = prepared(Postgres::primary(), 0).await;
    let client = cluster.nodes[0].client().await.unwrap();
    let [read_only, ended, untold] = resting(&cluster, &client).await;
    let before = advance(&client).await;
    for router in [&read_only, &ended, &untold] {
        assert!(known(router) < Some(before));
    }
    // 25006, raised by the server.
    let db = read_only.db(Causal::default());
    let once = Retry::default().attempts(1);
    let refused = db
        .run_with(TransactionOptions::default(), once, async |tx| {
            tx.batch_execute("SET TRANSACTION READ ONLY").await?;
            tx.batch_execute("INSERT INTO note VALUES (-1)").await?;
            Ok::<_, Error>(())
        })
        .await
        .unwrap_err();
    let Error::Query(error) = refused else {
        panic!("{refused:?}");
    };
    let code = SqlState::READ_ONLY_SQL_TRANSACTION;
    assert_eq!(error.code(), Some(&code));
    eventually("25006 is news", async || known(&read_only) >= Some(before)).await;
    // 57P01, raised by the server, which then ends the connection.
    let conn = ended.write().await.unwrap();
    let row = conn.query_one("SELECT pg_backend_pid()", &[]).await;
    let pid: i32 = row.unwrap().get(0);
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE pid = {pid} AND wait_event = 'PgSleep'"
    );
    let (slept, ()) = tokio::join!(
        conn.batch_execute("SELECT pg_sleep(600)"),
        // Ended while it sleeps, so that the server's last word is the answer to this.
        eventually("it sleeps, and is ended", async || {
            client.query_one(&end, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
    );
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    eventually("57P01 is news", async || known(&ended) >= Some(before)).await;
    // The control: nothing has happened to this one, and it has asked nobody.
    assert!(known(&untold) < Some(before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_ends_the_others_are_asked_at_once_and_when_nothing_ends_they_are_not() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let router = slow(&cluster).await;
    let untold = slow(&cluster).await;
    // It is promoted beside the old primary, which nobody notices.
    cluster.promote(1).await.unwrap();
    let primary = |router: &Router| router.status().primary;
    let conn = router.write().await.unwrap();
    for router in [&router, &untold] {
        assert_eq!(primary(router).as_ref(), Some(&cluster.nodes[0].name));
    }
    drop(conn);
    let seen = async |router: &Router| {
        eventually("the new one is found", async || {
            primary(router).as_ref() == Some(&cluster.nodes[1].name)
        })
        .await;
    };
    // Whatever is told to ask, asks all.
    router.probe_now();
    seen(&router).await;
    assert_eq!(primary(&untold).as_ref(), Some(&cluster.nodes[0].name));
    cluster.nodes[0].kill().await.unwrap();
    seen(&untold).await;
}
