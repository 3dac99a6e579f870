//! Whole transactions, tried again where that is safe.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ha_core::budget;
use ha_db::postgres::{Causal, Consistency, Error, Retry, Router, Transaction, TransactionOptions};
use ha_testbed::postgres::{Cluster, Postgres};
use tokio_postgres::error::SqlState;

use crate::cancel::{Bed, add};
use crate::support::{DEADLINE, all_in_use, builder, eventually, started};

/// An app's own error, with the database's inside.
#[derive(Debug, thiserror::Error)]
enum App {
    #[error(transparent)]
    Database(#[from] Error),
    #[error(transparent)]
    Query(#[from] tokio_postgres::Error),
    #[error("not enough")]
    NotEnough,
}

fn generous() -> budget::Config {
    budget::Config {
        retry_ratio: 1.0,
        reserve_per_second: 1000.0,
        ..budget::Config::default()
    }
}

async fn start(replicas: usize) -> (Cluster, Router) {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE counter (value bigint); INSERT INTO counter VALUES (0)")
        .await
        .unwrap();
    if replicas > 0 {
        cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    }
    let builder = builder(&cluster)
        .retry_budget(generous())
        .write_wait(DEADLINE);
    (cluster, started(builder).await)
}

async fn increment(tx: &mut Transaction) -> Result<(), App> {
    let row = tx.query_one("SELECT value FROM counter", &[]).await?;
    let value: i64 = row.get(0);
    let sql = "UPDATE counter SET value = $1";
    tx.execute(sql, &[&(value + 1)]).await?;
    Ok(())
}

async fn value(router: &Router) -> i64 {
    let conn = router.write().await.unwrap();
    let row = conn.query_one("SELECT value FROM counter", &[]).await;
    row.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_tried_again_until_all_have_counted() {
    const CLIENTS: i64 = 16;
    let (_cluster, router) = start(0).await;
    let serializable = TransactionOptions::default().serializable();
    let retry = Retry::default().attempts(200).deadline(DEADLINE);
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let db = router.db(Causal::default());
            tokio::spawn(async move { db.run_with(serializable, retry, increment).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(value(&router).await, CLIENTS);
    // The control: the same without another try loses some of them.
    let once = Retry::default().attempts(1);
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let db = router.db(Causal::default());
            tokio::spawn(async move { db.run_with(serializable, once, increment).await })
        })
        .collect();
    let mut failed = 0;
    for task in tasks {
        failed += i64::from(task.await.unwrap().is_err());
    }
    assert!(failed > 0);
    assert_eq!(value(&router).await, 2 * CLIENTS - failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_app_refuses_is_rolled_back_and_not_repeated() {
    let (_cluster, router) = start(0).await;
    let db = router.db(Causal::default());
    let mut runs = 0;
    let refused = db
        .run(async |tx| {
            runs += 1;
            increment(tx).await?;
            Err::<(), _>(App::NotEnough)
        })
        .await;
    assert!(matches!(refused, Err(App::NotEnough)));
    let wrong = db
        .run(async |tx| {
            runs += 1;
            tx.execute("SELECT nothing", &[]).await?;
            Ok::<_, App>(())
        })
        .await;
    let App::Query(error) = wrong.unwrap_err() else {
        panic!("not the error of the query");
    };
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_COLUMN));
    assert_eq!((runs, value(&router).await), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_ends_the_retries_of_all() {
    let cluster = Postgres::primary().start().await.unwrap();
    let nothing = budget::Config {
        retry_ratio: 0.0,
        reserve_per_second: 0.2,
        ..budget::Config::default()
    };
    let router = started(builder(&cluster).retry_budget(nothing)).await;
    let db = router.db(Causal::default());
    let runs = AtomicI64::new(0);
    for _ in 0..10 {
        let conflict = db
            .run(async |tx| {
                runs.fetch_add(1, Ordering::Relaxed);
                let raise = "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$";
                Ok::<_, Error>(tx.batch_execute(raise).await?)
            })
            .await;
        let Err(Error::Query(error)) = conflict else {
            panic!("{conflict:?}");
        };
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    }
    // 0.2 per second over 10 s are two retries, whoever wants them.
    assert_eq!(runs.into_inner(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_primary_dies_before_the_commit_ends_on_its_successor() {
    let (cluster, router) = start(1).await;
    let db = router.db(Causal::default());
    let mut nodes = Vec::new();
    let retry = Retry::default().attempts(50).deadline(DEADLINE);
    db.run_with(TransactionOptions::default(), retry, async |tx| {
        nodes.push(tx.node().to_owned());
        if nodes.len() == 1 {
            increment(tx).await?;
            cluster.nodes[0].kill().await.unwrap();
            cluster.promote(1).await.unwrap();
        }
        increment(tx).await
    })
    .await
    .unwrap();
    assert_eq!(nodes.last().map(String::as_str), Some("postgres-1"));
    assert_eq!(value(&router).await, 1, "the first attempt left nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_cut_anywhere_leaves_nothing() {
    let bed = Bed::start().await;
    bed.cut_everywhere("a run", 2, async |run| {
        let db = bed.db();
        db.run(async |tx| {
            add(tx, run, "a").await;
            add(tx, run, "b").await;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    })
    .await;
    bed.cut_everywhere("a resolvable run", 1, async |run| {
        let options = TransactionOptions::default().resolvable();
        let db = bed.db();
        db.run_with(options, Retry::default(), async |tx| {
            add(tx, run, "a").await;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    })
    .await;
    // Its deadline ends what still runs on the server.
    let retry = Retry::default().deadline(Duration::from_millis(300));
    let late = bed
        .db()
        .run_with(TransactionOptions::default(), retry, async |tx| {
            tx.batch_execute("SELECT pg_sleep(60)").await?;
            Ok::<_, Error>(())
        })
        .await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    bed.assert_whole("a run that was too slow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_in_conflict_with_recovery_goes_elsewhere_and_ejects_nobody() {
    let cluster = Postgres::primary()
        .replicas(2)
        .setting("max_standby_streaming_delay", "0")
        .start()
        .await
        .unwrap();
    let primary = cluster.nodes[0].client().await.unwrap();
    primary
        .batch_execute("CREATE TABLE note (id bigint); INSERT INTO note VALUES (1)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    // So far behind that a slow machine ejects nobody.
    let patient = builder(&cluster).max_lag(DEADLINE);
    let router = started(patient).await;
    all_in_use(&router, 2).await;
    let db = router.db(Causal::default());
    let mut nodes: Vec<String> = Vec::new();
    let retry = Retry::default().deadline(DEADLINE);
    db.run_read(Consistency::Eventual, retry, async |conn| {
        nodes.push(conn.node().to_owned());
        if nodes.len() > 1 {
            return Ok(());
        }
        let conflict = async {
            eventually("it is being read", async || {
                let index = router
                    .status()
                    .nodes
                    .iter()
                    .position(|node| node.name == nodes[0]);
                let client = cluster.nodes[index.unwrap()].client().await.unwrap();
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' \
                     AND state = 'active' AND pid <> pg_backend_pid()";
                client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
            })
            .await;
            primary.batch_execute("TRUNCATE note").await.unwrap();
        };
        let (read, ()) = tokio::join!(conn.query("SELECT pg_sleep(60) FROM note", &[]), conflict);
        let error = read.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
        Err(Error::from(error))
    })
    .await
    .unwrap();
    assert!(nodes.len() == 2 && nodes[0] != nodes[1], "{nodes:?}");
    assert!(router.status().nodes.iter().all(|node| !node.ejected));
}
