//! Commits without an answer, and what became of them.

use std::time::Duration;

use ha_db::postgres::{Causal, Error, InDoubt, Outcome, Retry, Router, TransactionOptions};
use ha_testbed::link::Link;
use ha_testbed::postgres::{Client, Cluster, Postgres};

use crate::support::{DEADLINE, eventually, started};

/// The primary behind a link, and its replicas.
struct Bed {
    cluster: Cluster,
    link: Link,
    router: Router,
}

const RESOLVABLE: fn() -> TransactionOptions = || TransactionOptions::default().resolvable();

impl Bed {
    async fn start(replicas: usize) -> Self {
        let cluster = Postgres::primary()
            .replicas(replicas)
            .start()
            .await
            .unwrap();
        let client = cluster.nodes[0].client().await.unwrap();
        client
            .batch_execute("CREATE TABLE note (id bigint)")
            .await
            .unwrap();
        if replicas > 0 {
            cluster.wait_caught_up(0, DEADLINE).await.unwrap();
        }
        let link = Link::to(cluster.nodes[0].addr()).await.unwrap();
        let behind = format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            link.addr().port()
        );
        let nodes = cluster.nodes.iter().skip(1);
        let builder = nodes.fold(
            Router::builder().node("postgres-0", behind),
            |builder, node| builder.node(&node.name, node.conninfo()),
        );
        let builder = builder
            .commit_timeout(Duration::from_secs(5))
            .write_wait(DEADLINE);
        let router = started(builder).await;
        Self {
            cluster,
            link,
            router,
        }
    }

    async fn client(&self, node: usize) -> Client {
        self.cluster.nodes[node].client().await.unwrap()
    }

    /// A commit that reaches the server, and whose answer does not reach us.
    async fn unanswered(&self, id: i64) -> InDoubt {
        let watcher = self.client(0).await;
        let tx = self.router.transaction_with(RESOLVABLE()).await.unwrap();
        tx.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
        self.link.silence_to_client().await.unwrap();
        let (committed, ()) = tokio::join!(tx.commit(), async {
            eventually("it is committed", async || count(&watcher, id).await == 1).await;
            self.link.cut().await.unwrap();
        });
        doubt(committed.unwrap_err())
    }

    /// A commit that does not reach the server.
    async fn unheard(&self, id: i64) -> InDoubt {
        let tx = self.router.transaction_with(RESOLVABLE()).await.unwrap();
        tx.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
        self.link.silence_to_server().await.unwrap();
        let mut commit = Box::pin(tx.commit());
        // Polled once it is sent, into the silence.
        assert!(futures_util::poll!(commit.as_mut()).is_pending());
        self.link.cut().await.unwrap();
        doubt(commit.await.unwrap_err())
    }
}

fn doubt(error: Error) -> InDoubt {
    assert!(error.is_unknown() && !error.is_retryable(), "{error:?}");
    *error.in_doubt().expect("it is resolvable")
}

async fn count(client: &tokio_postgres::Client, id: i64) -> i64 {
    let sql = "SELECT count(*) FROM note WHERE id = $1";
    client.query_one(sql, &[&id]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_same_server_a_lost_answer_is_told_from_a_lost_commit() {
    let bed = Bed::start(0).await;
    let answered_late = bed.unanswered(1).await;
    bed.link.restore().await.unwrap();
    let outcome = bed.router.resolve(&answered_late).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
    let never_came = bed.unheard(2).await;
    bed.link.restore().await.unwrap();
    let outcome = bed.router.resolve(&never_came).await.unwrap();
    assert_eq!(outcome, Outcome::NotCommitted);
    let client = bed.client(0).await;
    assert_eq!((count(&client, 1).await, count(&client, 2).await), (1, 0));
    // Without being asked for, nothing can be told.
    let tx = bed.router.transaction().await.unwrap();
    tx.execute("INSERT INTO note VALUES (3)", &[])
        .await
        .unwrap();
    bed.link.cut().await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(
        error.is_unknown() && error.in_doubt().is_none(),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_reached_the_successor_is_found_there() {
    let bed = Bed::start(1).await;
    let doubt = bed.unanswered(1).await;
    bed.cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    bed.cluster.nodes[0].kill().await.unwrap();
    bed.cluster.promote(1).await.unwrap();
    let outcome = bed.router.resolve(&doubt).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_a_failover_cut_off_is_not_taken_for_the_next_bearer_of_its_number() {
    let bed = Bed::start(1).await;
    bed.cluster.nodes[1].kill().await.unwrap();
    let doubt = bed.unanswered(1).await;
    bed.cluster.nodes[0].kill().await.unwrap();
    bed.cluster.nodes[1].start().await.unwrap();
    bed.cluster.promote(1).await.unwrap();
    let successor = bed.client(1).await;
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    eventually("the number is given out again", async || {
        successor
            .execute("INSERT INTO note VALUES (7)", &[])
            .await
            .unwrap();
        let next: i64 = successor.query_one(next, &[]).await.unwrap().get(0);
        next.unsigned_abs() > doubt.xid()
    })
    .await;
    let outcome = bed.router.resolve(&doubt).await.unwrap();
    assert_eq!(outcome, Outcome::NotCommitted);
    assert_eq!(count(&successor, 1).await, 0);
    // The control: the number alone answers for somebody else.
    let naive = format!("SELECT pg_xact_status('{}')", doubt.xid());
    let naive: String = successor.query_one(&naive, &[]).await.unwrap().get(0);
    assert_eq!(naive, "committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_in_place_a_commit_cannot_be_proved_and_a_rollback_can() {
    let bed = Bed::start(0).await;
    let committed = bed.unanswered(1).await;
    bed.link.restore().await.unwrap();
    let rolled_back = {
        bed.router.wait_primary(DEADLINE).await.unwrap();
        bed.unheard(2).await
    };
    bed.cluster.nodes[0].restart().await.unwrap();
    bed.link.restore().await.unwrap();
    let outcome = bed.router.resolve(&committed).await.unwrap();
    assert_eq!(outcome, Outcome::Unprovable);
    let outcome = bed.router.resolve(&rolled_back).await.unwrap();
    assert_eq!(outcome, Outcome::NotCommitted);
}

/// Cuts the link as soon as the row is committed, and mends it.
async fn cut_when_committed(bed: &Bed, id: i64) {
    let watcher = bed.client(0).await;
    eventually("it is committed", async || count(&watcher, id).await > 0).await;
    bed.link.cut().await.unwrap();
    bed.link.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_finds_out_what_a_naive_retry_applies_twice() {
    let bed = Bed::start(0).await;
    let db = bed.router.db(Causal::default());
    let mut runs = 0;
    let work = async |tx: &mut ha_db::postgres::Transaction| {
        runs += 1;
        tx.execute("INSERT INTO note VALUES (1)", &[]).await?;
        bed.link.silence_to_client().await.unwrap();
        Ok::<_, Error>(())
    };
    let (done, ()) = tokio::join!(
        db.run_with(RESOLVABLE(), Retry::default().deadline(DEADLINE), work),
        cut_when_committed(&bed, 1)
    );
    done.unwrap();
    let client = bed.client(0).await;
    assert_eq!((runs, count(&client, 1).await), (1, 1));
    // It was acknowledged after all, so the client's token covers it.
    assert!(db.token().await.is_some());
    // Not resolvable, it is reported and not repeated.
    bed.router.wait_primary(DEADLINE).await.unwrap();
    let work = async |tx: &mut ha_db::postgres::Transaction| {
        tx.execute("INSERT INTO note VALUES (2)", &[]).await?;
        bed.link.silence_to_client().await.unwrap();
        Ok::<_, Error>(())
    };
    let (done, ()) = tokio::join!(db.run(work), cut_when_committed(&bed, 2));
    assert!(done.unwrap_err().is_unknown());
    assert_eq!(count(&client, 2).await, 1);
    // The control: whoever repeats whatever failed.
    let mut tries = 0;
    loop {
        tries += 1;
        let tx = bed.router.transaction().await.unwrap();
        tx.execute("INSERT INTO note VALUES (3)", &[])
            .await
            .unwrap();
        if tries == 1 {
            bed.link.silence_to_client().await.unwrap();
            let (failed, ()) = tokio::join!(tx.commit(), cut_when_committed(&bed, 3));
            assert!(failed.is_err());
        } else {
            tx.commit().await.unwrap();
            break;
        }
    }
    assert_eq!(count(&client, 3).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_still_runs_is_waited_for_under_another_name_of_its_server_too() {
    let cluster = Postgres::primary()
        .replicas(1)
        .synchronous(true)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigint)")
        .await
        .unwrap();
    let link = Link::to(cluster.nodes[0].addr()).await.unwrap();
    let behind = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        link.addr().port()
    );
    let router = Router::builder()
        .node("direct", behind)
        .node("address", cluster.nodes[0].conninfo())
        .commit_timeout(Duration::from_secs(2))
        .write_wait(DEADLINE);
    let router = started(router).await;
    eventually("the first name stands for both", async || {
        router.status().primary.as_deref() == Some("direct")
    })
    .await;
    cluster.nodes[1].kill().await.unwrap();
    let tx = router.transaction_with(RESOLVABLE()).await.unwrap();
    tx.execute("INSERT INTO note VALUES (1)", &[])
        .await
        .unwrap();
    let (committed, ()) = tokio::join!(tx.commit(), async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("it waits for its standby", async || {
            client
                .query_one(waiting, &[])
                .await
                .unwrap()
                .get::<_, i64>(0)
                == 1
        })
        .await;
        link.cut().await.unwrap();
    });
    let doubt = doubt(committed.unwrap_err());
    // Under the other name it is not another server, on which nothing of ours could run.
    let error = router.resolve(&doubt).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(router.status().primary.as_deref(), Some("address"));
    // The control: had it been called undone, it would be there twice now.
    cluster.nodes[1].start().await.unwrap();
    eventually("it lands", async || count(&client, 1).await == 1).await;
    let outcome = router.resolve(&doubt).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
    // A router that knows fewer nodes than the one that began it says so as well.
    let fewer = Router::builder().node("address", cluster.nodes[0].conninfo());
    let outcome = started(fewer).await.resolve(&doubt).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
}
