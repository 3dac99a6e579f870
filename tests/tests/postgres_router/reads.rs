//! The PostgreSQL router on real servers: what reads show and where they run, each beside the naive way.

use std::time::Duration;

use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{Causal, Error, Lsn, Role, Router, Token};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, started};

async fn start(replicas: usize) -> (Cluster, Router) {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    let router = started(builder(&cluster)).await;
    all_in_use(&router, replicas).await;
    let conn = router.write().await.unwrap();
    conn.batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    drop(conn);
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    (cluster, router)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reads_what_it_wrote_from_replicas() {
    let (_cluster, router) = start(2).await;
    let db = router.db(Causal::default());
    let (mut stale, mut on_replicas, mut naive_stale) = (0, 0, 0);
    const ROUNDS: i64 = 1000;
    for id in 0..ROUNDS {
        if id % 2 == 0 {
            let tx = db.transaction().await.unwrap();
            tx.execute("INSERT INTO note VALUES ($1)", &[&id])
                .await
                .unwrap();
            tx.commit().await.unwrap();
        } else {
            let conn = db.write().await.unwrap();
            conn.execute("INSERT INTO note VALUES ($1)", &[&id])
                .await
                .unwrap();
        }
        const SEEN: &str = "SELECT count(*) FROM note WHERE id = $1";
        // The naive way: any replica that is not lagging.
        let naive = router.read().await.unwrap();
        naive_stale += i64::from(
            naive
                .query_one(SEEN, &[&id])
                .await
                .unwrap()
                .get::<_, i64>(0)
                == 0,
        );
        drop(naive);
        let conn = db.read().await.unwrap();
        on_replicas += i64::from(conn.node() != router.status().primary.unwrap());
        stale += i64::from(conn.query_one(SEEN, &[&id]).await.unwrap().get::<_, i64>(0) == 0);
    }
    eprintln!("stale {stale}, on replicas {on_replicas}, naive stale {naive_stale} of {ROUNDS}");
    assert_eq!(stale, 0);
    assert!(
        on_replicas * 100 >= ROUNDS * 95,
        "only {on_replicas} of {ROUNDS} on replicas"
    );
    assert!(naive_stale > 0, "the control must fail");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_primary_and_then_one_write_ejects_nobody() {
    const ROUNDS: usize = 6;
    let (cluster, router) = start(1).await;
    let naive = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8";
    let replica = cluster.nodes[1].client().await.unwrap();
    eventually("the naive formula ejects above 0.5 s", async || {
        let seconds: f64 = replica.query_one(naive, &[]).await.unwrap().get(0);
        seconds > 0.5
    })
    .await;
    probed(&cluster, &router).await;
    let conn = router.write().await.unwrap();
    conn.execute("INSERT INTO note VALUES (1)", &[])
        .await
        .unwrap();
    // An ejection lasts for three probes, so none can fall between these looks.
    for _ in 0..ROUNDS {
        probed(&cluster, &router).await;
    }
}

/// Returns when all nodes were probed once more, and checks that nobody is ejected. The router shows it: a checkpoint
/// moves the positions on without being a commit.
async fn probed(cluster: &Cluster, router: &Router) {
    let primary = cluster.nodes[0].client().await.unwrap();
    primary.batch_execute("CHECKPOINT").await.unwrap();
    let flushed = "SELECT pg_current_wal_flush_lsn()::text";
    let row = primary.query_one(flushed, &[]).await.unwrap();
    let lsn: Lsn = row.get::<_, &str>(0).parse().unwrap();
    eventually("all nodes are probed", async || {
        let status = router.status();
        assert!(!status.nodes.iter().any(|node| node.ejected), "{status:?}");
        status.nodes.iter().all(|node| node.lsn >= Some(lsn))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_is_noticed_while_a_plain_query_hangs() {
    let (cluster, router) = start(1).await;
    let plain = cluster.nodes[1].client().await.unwrap();
    cluster.nodes[1].freeze().unwrap();
    // Within probe_interval + probe_timeout = 0.6 s; the rest is slack for a busy machine.
    let noticed = eventually("the frozen replica is unreachable", async || {
        router.status().nodes[1].role == Role::Unreachable
    });
    tokio::time::timeout(Duration::from_secs(5), noticed)
        .await
        .unwrap();
    let hung = tokio::time::timeout(Duration::from_secs(1), plain.simple_query("SELECT 1")).await;
    assert!(hung.is_err(), "the control must hang");
    let conn = router.read().await.unwrap();
    assert_eq!(conn.node(), cluster.nodes[0].name);
    cluster.nodes[1].thaw().unwrap();
    all_in_use(&router, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_promotion_the_old_primary_gets_no_write_and_a_cut_off_token_is_lost() {
    let (cluster, router) = start(1).await;
    let db = router.db(Causal::default());
    cluster.nodes[1].freeze().unwrap();
    let tx = db.transaction().await.unwrap();
    tx.execute("INSERT INTO note VALUES (77)", &[])
        .await
        .unwrap();
    let token = tx.commit().await.unwrap();
    // Killed before it can read on: what is in the sockets' buffers must not reach it.
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the promoted node is primary", async || {
        router.status().primary.as_deref() == Some(&*cluster.nodes[1].name)
    })
    .await;
    cluster.nodes[0].start().await.unwrap();
    eventually("the old primary is back", async || {
        router.status().nodes[0].role == Role::StalePrimary
    })
    .await;
    // A router that takes whoever is not in recovery would write to it.
    assert!(!cluster.nodes[0].is_replica().await.unwrap());
    for id in 100..120_i64 {
        let conn = router.write().await.unwrap();
        assert_eq!(conn.node(), cluster.nodes[1].name);
        conn.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
    }
    // Far enough for a comparison of positions alone to say "caught up".
    let conn = router.write().await.unwrap();
    conn.batch_execute("CREATE TABLE filler AS SELECT generate_series(1, 20000) AS n")
        .await
        .unwrap();
    let ahead: Lsn = {
        let row = conn
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .unwrap();
        row.get::<_, String>(0).parse().unwrap()
    };
    drop(conn);
    assert!(ahead >= token.lsn(), "the naive comparison says caught up");
    eventually("the history is known", async || {
        router.check(&token).is_err()
    })
    .await;
    let error = db.read().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    // Reported once.
    drop(db.read().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_another_cluster_and_noise_are_told_apart() {
    let (_cluster, router) = start(0).await;
    let ours = router.status().system_id.unwrap();
    let foreign = Token::new(ours ^ 1, 1, Lsn(1));
    assert!(matches!(
        router.check(&foreign),
        Err(Error::ForeignToken { .. })
    ));
    let absurd = Token::new(ours, 1, Lsn(u64::MAX));
    assert!(matches!(
        router.check(&absurd),
        Err(Error::ImplausibleToken { .. })
    ));
    let keys = KeyRing::from(Key::from_bytes(&[1; 32]).unwrap());
    assert!(Token::verify("garbled", &keys).is_err());
    // Nobody is locked out by a foreign cookie.
    let db = router.db(Causal::new(Some(foreign)));
    drop(db.read().await.unwrap());
    assert_eq!(db.token().await.unwrap().system_id(), ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_or_failed_transaction_leaves_nothing_behind() {
    let (_cluster, router) = start(0).await;
    for id in 0..40_i64 {
        let tx = router.transaction().await.unwrap();
        tx.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
        drop(tx);
        let conn = router.write().await.unwrap();
        conn.batch_execute("BEGIN").await.unwrap();
        drop(conn);
    }
    let tx = router.transaction().await.unwrap();
    tx.batch_execute("SELECT 1/0").await.unwrap_err();
    assert!(matches!(tx.commit().await, Err(Error::RolledBack { .. })));
    for _ in 0..40 {
        let conn = router.write().await.unwrap();
        // As one simple query: bind and execute have clocks of their own.
        let sql = "SELECT (count(*) = 0 AND now() = statement_timestamp())::text FROM note";
        let rows = conn.simple_query(sql).await.unwrap();
        let clean = rows.iter().any(|row| {
            matches!(row, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("true"))
        });
        assert!(clean, "{rows:?}");
    }
}

/// Reads as soon as a replica says that it has the write, asking it within the reading statement or before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_must_be_checked_before_the_statement_that_reads() {
    const ROUNDS: i64 = 3000;
    let (cluster, router) = start(1).await;
    let db = router.db(Causal::default());
    let replica = cluster.nodes[1].client().await.unwrap();
    let within = replica
        .prepare("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn, EXISTS (SELECT FROM note WHERE id = $2)")
        .await
        .unwrap();
    let (mut same_missed, mut before_missed) = (0, 0);
    let mut rounds = 0..5 * ROUNDS;
    // The gap that the control falls into is microseconds wide: on an unlucky run it takes more rounds to hit it.
    while let Some(id) = rounds.next().filter(|id| *id < ROUNDS || same_missed == 0) {
        let tx = db.transaction().await.unwrap();
        tx.execute("INSERT INTO note VALUES ($1)", &[&id])
            .await
            .unwrap();
        let token = tx.commit().await.unwrap();
        let lsn = token.lsn().to_string();
        let naive = async {
            loop {
                let row = replica.query_one(&within, &[&lsn, &id]).await.unwrap();
                if row.get(0) {
                    return row.get::<_, bool>(1);
                }
            }
        };
        let routed = async {
            let conn = db.read().await.unwrap();
            let sql = "SELECT EXISTS (SELECT FROM note WHERE id = $1)";
            conn.query_one(sql, &[&id]).await.unwrap().get::<_, bool>(0)
        };
        let (naive, routed) = tokio::join!(naive, routed);
        same_missed += i64::from(!naive);
        before_missed += i64::from(!routed);
    }
    eprintln!(
        "missed of {ROUNDS}: {same_missed} within one statement, {before_missed} through the router"
    );
    assert_eq!(before_missed, 0);
    assert!(same_missed > 0, "the control must miss some");
}
