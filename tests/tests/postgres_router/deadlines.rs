//! Operations that are given up, and what becomes of them on the server.

use std::time::Duration;

use ha_db::postgres::{Causal, Conn, Consistency, Error, Retry, Router, TransactionOptions};
use ha_testbed::postgres::{Client, Cluster, Postgres};
use tokio::time::timeout;

use crate::cancel::Bed;
use crate::polls::cut_after;
use crate::support::{builder, eventually, started};

const SHORT: Duration = Duration::from_millis(100);
const SLEEP: &str = "SELECT pg_sleep(600)";

async fn sleeping(client: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity \
         WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_statement_on_the_server_too() {
    let bed = Bed::start().await;
    let conn = bed.router.read().await.unwrap();
    let late = conn.within(SHORT, conn.query(SLEEP, &[])).await;
    assert!(
        matches!(late, Err(Error::Timeout { limit: SHORT, .. })),
        "{late:?}"
    );
    assert_eq!(
        sleeping(&bed.watcher).await,
        0,
        "it said so, so it has ended"
    );
    drop(conn);
    // A write that commits by itself was confirmed to be cancelled, so its outcome is known.
    let conn = bed.router.write().await.unwrap();
    let slow = "INSERT INTO note SELECT 1, 'a' FROM pg_sleep(600)";
    let late = conn.within(SHORT, conn.execute(slow, &[])).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    drop(conn);
    assert!(bed.parts(1).await.is_empty());
    // In a transaction a savepoint saves the rest.
    let mut tx = bed.router.transaction().await.unwrap();
    crate::cancel::add(&tx, 2, "a").await;
    let part = tx.savepoint().await.unwrap();
    let late = part.within(SHORT, part.query(SLEEP, &[])).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    part.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(bed.parts(2).await, ["a"]);
    // What is fast enough is not touched.
    let conn = bed.router.read().await.unwrap();
    let minute = Duration::from_secs(60);
    conn.within(minute, conn.query("SELECT 1", &[]))
        .await
        .unwrap();
    drop(conn);
    bed.assert_whole("after deadlines").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_dropped_at_any_point_does_not_run_on() {
    let bed = Bed::start().await;
    for polls in 0..8 {
        let point = format!("dropped after {polls} polls");
        let reading = cut_after(polls, async {
            let conn = bed.db().read().await.unwrap();
            let _ = conn.query(SLEEP, &[]).await;
        });
        let _ = timeout(SHORT, reading).await;
        let writing = cut_after(polls, async {
            let conn = bed.db().write().await.unwrap();
            let sql = "INSERT INTO note SELECT 1, 'a' FROM pg_sleep(600)";
            let _ = conn.execute(sql, &[]).await;
        });
        let _ = timeout(SHORT, writing).await;
        let transaction = cut_after(polls, async {
            let tx = bed.db().transaction().await.unwrap();
            let _ = tx.query(SLEEP, &[]).await;
        });
        let _ = timeout(SHORT, transaction).await;
        let within = cut_after(polls, async {
            let tx = bed.db().transaction().await.unwrap();
            let _ = tx.within(SHORT / 2, tx.query(SLEEP, &[])).await;
        });
        let _ = timeout(SHORT, within).await;
        eventually(&point, async || sleeping(&bed.watcher).await == 0).await;
        bed.assert_whole(&point).await;
        assert!(bed.parts(1).await.is_empty(), "{point}");
    }
    // The control: a client that is dropped leaves its statement running.
    let naive = bed.cluster.nodes[0].client().await.unwrap();
    let _ = timeout(SHORT, naive.query(SLEEP, &[])).await;
    drop(naive);
    let mut polls = 0;
    eventually("it still runs a hundred looks later", async || {
        assert_eq!(sleeping(&bed.watcher).await, 1);
        polls += 1;
        polls == 100
    })
    .await;
}

/// A primary whose synchronous standby is dead.
struct Waiting {
    _cluster: Cluster,
    watcher: Client,
    router: Router,
}

impl Waiting {
    async fn start() -> Self {
        let cluster = Postgres::primary()
            .replicas(1)
            .synchronous(true)
            .start()
            .await
            .unwrap();
        let watcher = cluster.nodes[0].client().await.unwrap();
        watcher
            .batch_execute("CREATE TABLE note (id bigint)")
            .await
            .unwrap();
        let router = started(builder(&cluster)).await;
        cluster.nodes[1].kill().await.unwrap();
        Self {
            _cluster: cluster,
            watcher,
            router,
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        self.watcher.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn visible(&self) -> i64 {
        self.number("SELECT count(*) FROM note").await
    }

    /// Looks for longer than it takes to cancel what was dropped, and to close its connection.
    async fn is_left_alone(&self) {
        eventually("it waits for the standby", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            self.number(waiting).await == 1
        })
        .await;
        let mut looks = 0;
        eventually("it has been left alone", async || {
            assert_eq!(self.visible().await, 0, "visible without the standby");
            looks += 1;
            looks == 300
        })
        .await;
        // The control: a plain cancellation makes it visible, without any standby.
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        assert_eq!(self.number(cancel).await, 1);
        eventually("it is visible", async || self.visible().await == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_its_standby_is_not_cancelled_into_a_local_one() {
    let bed = Waiting::start().await;
    let conn = bed.router.write().await.unwrap();
    let insert = conn.execute("INSERT INTO note VALUES (1)", &[]);
    let unknown = conn.within(SHORT, insert).await.unwrap_err();
    assert!(unknown.is_unknown(), "{unknown:?}");
    drop(conn);
    bed.is_left_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_dropped_while_it_waits_for_its_standby_is_not_cancelled_into_a_local_one() {
    let bed = Waiting::start().await;
    let tx = bed.router.transaction().await.unwrap();
    tx.execute("INSERT INTO note VALUES (1)", &[])
        .await
        .unwrap();
    assert!(timeout(SHORT, tx.commit()).await.is_err(), "nobody has it");
    bed.is_left_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_without_an_end_are_taken_as_such() {
    let bed = Bed::start().await;
    let never = Duration::MAX;
    let builder = builder(&bed.cluster).write_wait(never).pool_wait(never);
    let router = started(builder.commit_timeout(never).replica_wait(never)).await;
    let db = router.db(Causal::default());
    let retry = Retry::default().deadline(never);
    db.run_with(TransactionOptions::default(), retry, async |tx| {
        crate::cancel::add(tx, 1, "a").await;
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    let read = async |conn: &Conn| Ok::<_, Error>(conn.simple_query("SELECT 1").await?);
    db.run_read(Consistency::ReadYourWrites, retry, read)
        .await
        .unwrap();
    assert_eq!(bed.parts(1).await, ["a"]);
}
