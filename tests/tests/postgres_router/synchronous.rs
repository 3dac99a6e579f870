//! What a commit waits for, set per transaction.

use std::time::Duration;

use ha_db::postgres::{Causal, Error, Router, SynchronousCommit, TransactionOptions};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{builder, eventually, started};

async fn start() -> (Cluster, Router) {
    let cluster = Postgres::primary()
        .replicas(1)
        .synchronous(true)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let limit = Duration::from_millis(500);
    let router = started(builder(&cluster).commit_timeout(limit)).await;
    (cluster, router)
}

fn under(level: SynchronousCommit) -> TransactionOptions {
    TransactionOptions::default().synchronous_commit(level)
}

async fn add(router: &Router, id: i64, options: TransactionOptions) -> Result<(), Error> {
    let tx = router.transaction_with(options).await?;
    tx.execute("INSERT INTO note VALUES ($1)", &[&id]).await?;
    tx.commit().await.map(drop)
}

async fn count(client: &tokio_postgres::Client) -> i64 {
    let row = client.query_one("SELECT count(*) FROM note", &[]).await;
    row.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_holds_for_one_transaction_and_decides_what_its_commit_waits_for() {
    let (cluster, router) = start().await;
    let show = "SELECT current_setting('synchronous_commit')";
    let tx = router
        .transaction_with(under(SynchronousCommit::RemoteApply))
        .await
        .unwrap();
    let inside: String = tx.query_one(show, &[]).await.unwrap().get(0);
    tx.commit().await.unwrap();
    let conn = router.write().await.unwrap();
    let after: String = conn.query_one(show, &[]).await.unwrap().get(0);
    drop(conn);
    assert_eq!((inside.as_str(), after.as_str()), ("remote_apply", "on"));
    // What was applied remotely shows on the standby at once.
    let standby = cluster.nodes[1].client().await.unwrap();
    for id in 0..100 {
        add(&router, id, under(SynchronousCommit::RemoteApply))
            .await
            .unwrap();
        assert_eq!(count(&standby).await, id + 1);
    }
    drop(standby);
    // Without the standby only what does not wait for it is acknowledged.
    cluster.nodes[1].kill().await.unwrap();
    for (id, level) in [
        (200, SynchronousCommit::Local),
        (201, SynchronousCommit::Off),
    ] {
        add(&router, id, under(level)).await.unwrap();
    }
    let error = add(&router, 202, under(SynchronousCommit::On))
        .await
        .unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_timeout_ends_a_statement_and_not_a_commit_that_waits_for_its_standby() {
    let (cluster, router) = start().await;
    cluster.nodes[1].kill().await.unwrap();
    let limit = Duration::from_millis(100);
    let options = under(SynchronousCommit::On).statement_timeout(limit);
    let error = add(&router, 1, options).await.unwrap_err();
    assert!(error.is_unknown(), "no standby has it: {error:?}");
    // It does end a statement.
    let tx = router.transaction_with(options).await.unwrap();
    let error = tx.query("SELECT pg_sleep(60)", &[]).await.unwrap_err();
    let cancelled = tokio_postgres::error::SqlState::QUERY_CANCELED;
    assert_eq!(error.code(), Some(&cancelled));
    drop(tx);
    cluster.nodes[1].start().await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    eventually("it is there once a standby is", async || {
        count(&client).await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_a_commit_that_is_not_flushed_covers_it() {
    let cluster = Postgres::primary()
        .setting("wal_writer_delay", "10s")
        .setting("wal_writer_flush_after", "0")
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let router = started(builder(&cluster)).await;
    let mut behind = 0;
    for id in 0..50_i64 {
        let db = router.db(Causal::default());
        let tx = db
            .transaction_with(under(SynchronousCommit::Off))
            .await
            .unwrap();
        tx.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
        let before: String = tx
            .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
            .await
            .unwrap()
            .get(0);
        let token = tx.commit().await.unwrap();
        let before = before.parse().unwrap();
        assert!(token.lsn() > before, "{token:?} does not cover {before}");
        let flushed: String = client
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .unwrap()
            .get(0);
        // The control: the flushed position, which is right for a commit that waits for the disk.
        behind += i32::from(before > flushed.parse().unwrap());
    }
    assert!(
        behind > 0,
        "everything was flushed at once: this shows nothing"
    );
}
