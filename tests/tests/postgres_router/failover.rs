//! The PostgreSQL router while nodes die, freeze, fall behind and come back: what its clients see, each beside the naive way.

use std::time::{Duration, Instant};

use futures_util::poll;
use ha_db::postgres::{Causal, Consistency, Error, Lsn, Role, Router, Token};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, prepared, sees, started, write};

async fn start(replicas: usize) -> (Cluster, Router) {
    let cluster = prepared(Postgres::primary(), replicas).await;
    let router = builder(&cluster).build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    all_in_use(&router, replicas).await;
    (cluster, router)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_and_show_own_writes_while_the_primary_is_dead() {
    let (cluster, router) = start(2).await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    // Past it, replicas count as too far behind: nobody can tell their lag.
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    let (mut reads, mut dead, mut ejected) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let conn = db.read().await.expect("a read while the primary is dead");
        assert!(sees(&conn, 1).await.expect("a read on a live replica"));
        drop(conn);
        // A new client on every request carries only its token.
        let next = router.db(Causal::new(db.token().await));
        let conn = next.read().await.expect("a read by token");
        assert!(sees(&conn, 1).await.unwrap());
        let status = router.status();
        dead += i32::from(status.primary.is_none());
        ejected += i32::from(
            status
                .nodes
                .iter()
                .all(|node| node.ejected || node.role != Role::Replica),
        );
        reads += 2;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    eprintln!(
        "{reads} reads, {dead} rounds without a primary, {ejected} with every replica ejected"
    );
    assert!(dead > 0 && ejected > 0);
    // The control: going by lag alone, as Bounded does, has no node left.
    let bounded = Consistency::Bounded(Duration::from_millis(300));
    let error = db.read_with(bounded).await.unwrap_err();
    assert!(
        matches!(error, Error::NoReplica | Error::NotSent { .. }),
        "{error:?}"
    );
    let error = router.write().await.unwrap_err();
    assert!(error.is_retryable() && error.is_unavailable(), "{error:?}");
    // Nobody is left to say what a read of a dying replica showed; it must not tie the client to the dead primary.
    let conn = db.read().await.unwrap();
    let name = conn.node().to_owned();
    let served = cluster.nodes.iter().find(|node| node.name == name).unwrap();
    served.kill().await.unwrap();
    drop(conn);
    assert!(!db.token().await.unwrap().is_primary_only());
    let conn = db.read().await.expect("a read on the last node");
    assert!(conn.node() != name && sees(&conn, 1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_a_replica_that_dies_leaves_the_clients_token_exact() {
    let (cluster, router) = start(2).await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    let conn = loop {
        let conn = db.read().await.unwrap();
        if conn.node() != cluster.nodes[0].name {
            break conn;
        }
    };
    assert!(sees(&conn, 1).await.unwrap());
    let at = cluster
        .nodes
        .iter()
        .position(|node| node.name == conn.node())
        .unwrap();
    cluster.nodes[at].kill().await.unwrap();
    drop(conn);
    let token = db.token().await.unwrap();
    assert!(!token.is_primary_only());
    // And the next reads pass the dead node over, also before a probe has found out.
    for _ in 0..20 {
        assert!(sees(&db.read().await.unwrap(), 1).await.unwrap());
    }
    // Nor does an acknowledged write: another connection says where the primary stands, which is past it.
    let conn = db.write().await.unwrap();
    conn.execute("INSERT INTO note VALUES (2)", &[])
        .await
        .unwrap();
    let row = conn
        .query_one(
            "SELECT pg_backend_pid(), pg_current_wal_flush_lsn()::text",
            &[],
        )
        .await
        .unwrap();
    let (pid, acknowledged): (i32, String) = (row.get(0), row.get(1));
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .await
        .unwrap();
    eventually("the backend is gone", async || conn.is_closed()).await;
    drop(conn);
    let after = db.token().await.unwrap();
    assert!(!after.is_primary_only(), "{after:?}");
    assert!(token.lsn() < acknowledged.parse().unwrap(), "the control");
    assert!(after.lsn() >= acknowledged.parse().unwrap(), "{after:?}");
    assert!(sees(&db.read().await.unwrap(), 2).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_seen_a_newer_state_is_not_sent_back() {
    let (cluster, router) = start(2).await;
    cluster.pause_replay(2).await.unwrap();
    let client = router.db(Causal::default());
    let writer = router.db(Causal::default());
    let mut back = 0;
    for id in 0..30 {
        write(&writer, id).await;
        // This client has written nothing. It sees the newest state once, wherever that is.
        let conn = client.read_with(Consistency::Strong).await.unwrap();
        assert!(sees(&conn, id).await.unwrap());
        drop(conn);
        let conn = client.read().await.unwrap();
        assert!(
            sees(&conn, id).await.unwrap(),
            "round {id} on {}",
            conn.node()
        );
        drop(conn);
        for _ in 0..2 {
            let conn = router.read().await.unwrap();
            back += i32::from(!sees(&conn, id).await.unwrap());
        }
    }
    eprintln!("eventual reads went back {back} times of 60");
    assert!(back > 0, "the control must go back");
    cluster.resume_replay(2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_resume_after_a_promotion_and_the_old_primary_gets_none() {
    let (cluster, router) = start(2).await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    let waiting = tokio::spawn({
        let db = db.clone();
        async move {
            loop {
                match db.transaction().await {
                    Ok(tx) => break tx.node().to_owned(),
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            }
        }
    });
    cluster.promote(1).await.unwrap();
    let node = tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(node, cluster.nodes[1].name);
    cluster.nodes[0].start().await.unwrap();
    eventually("the old primary is known to be stale", async || {
        router.status().nodes[0].role == Role::StalePrimary
    })
    .await;
    assert!(
        !cluster.nodes[0].is_replica().await.unwrap(),
        "it would take writes"
    );
    for id in 10..60 {
        write(&db, id).await;
        assert!(sees(&db.read().await.unwrap(), id).await.unwrap());
    }
    let old = cluster.nodes[0].client().await.unwrap();
    assert!(!sees(&old, 10).await.unwrap());
    let new = cluster.nodes[1].client().await.unwrap();
    assert!(sees(&new, 1).await.unwrap() && sees(&new, 59).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_went_past_the_cut_gets_no_reads() {
    let (cluster, router) = start(2).await;
    // Only node 2 receives the row that the new timeline will not have.
    cluster.nodes[1].kill().await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("INSERT INTO note VALUES (666)")
        .await
        .unwrap();
    let phantom = cluster.nodes[2].client().await.unwrap();
    eventually("node 2 shows it", async || {
        sees(&phantom, 666).await.unwrap()
    })
    .await;
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    let db = router.db(Causal::default());
    eventually("the new primary takes writes", async || {
        router.status().primary.as_deref() == Some(&*cluster.nodes[1].name)
    })
    .await;
    eventually("node 2 is set aside", async || {
        router.status().nodes[2].role == Role::Diverged
    })
    .await;
    // It is still in recovery and answers: by roles alone it is a good replica.
    assert!(cluster.nodes[2].is_replica().await.unwrap());
    assert!(
        sees(&phantom, 666).await.unwrap(),
        "the control must show the phantom"
    );
    for _ in 0..50 {
        for consistency in [Consistency::Eventual, Consistency::ReadYourWrites] {
            let conn = db.read_with(consistency).await.unwrap();
            assert!(!sees(&conn, 666).await.unwrap(), "on {}", conn.node());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_commit_is_not_reported_lost_because_of_others_unreplicated_log() {
    let bed = Postgres::primary().synchronous(true);
    let cluster = prepared(bed, 1).await;
    let router = builder(&cluster).build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    let db = router.db(Causal::default());
    let conn = db.write().await.unwrap();
    conn.execute("INSERT INTO note VALUES (1)", &[])
        .await
        .unwrap();
    // It is acknowledged, so the standby has it. What others write from now on, it does not.
    cluster.nodes[1].freeze().unwrap();
    let other = cluster.nodes[0].client().await.unwrap();
    other
        .batch_execute(
            "SET synchronous_commit = local; INSERT INTO note SELECT generate_series(1000, 2000)",
        )
        .await
        .unwrap();
    let row = other
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    let naive: Lsn = row.get::<_, String>(0).parse().unwrap();
    drop(conn);
    let token = db.token().await.unwrap();
    // A read by it must not wait for what the standby does not have either.
    assert!(token.need().lsn < naive, "{token:?}, naive {naive}");
    // Killed before it can read on: what is in the sockets' buffers must not reach it.
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    let naive = Token::new(token.system_id(), token.timeline(), naive);
    eventually("the history shows the naive token as lost", async || {
        matches!(router.check(&naive), Err(Error::Lost { .. }))
    })
    .await;
    router.check(&token).unwrap();
    let conn = router.db(Causal::new(Some(token))).read().await.unwrap();
    assert!(sees(&conn, 1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_primary_is_told_of_a_write_that_the_new_one_has_not_kept() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let router = started(builder(&cluster).write_wait(DEADLINE)).await;
    all_in_use(&router, 1).await;
    cluster.nodes[1].freeze().unwrap();
    let clients = [(); 3].map(|()| router.db(Causal::default()));
    for (db, id) in clients.iter().zip(0..) {
        write(db, id).await;
        // All that it did is in its token.
        db.token().await.unwrap();
    }
    // Killed before it can read on: what is in the sockets' buffers must not reach it.
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    eventually("the replica is seen, and no primary", async || {
        let status = router.status();
        status.primary.is_none() && status.nodes[1].role == Role::Replica
    })
    .await;
    let [first, second, third] = &clients;
    let transaction = async { first.transaction().await.map(drop) };
    let write = async { second.write().await.map(drop) };
    let read = async { third.read().await.map(drop) };
    tokio::pin!(transaction, write, read);
    assert!(poll!(&mut transaction).is_pending());
    assert!(poll!(&mut write).is_pending());
    assert!(poll!(&mut read).is_pending());
    cluster.promote(1).await.unwrap();
    let (transaction, write, read) = tokio::join!(transaction, write, read);
    for (what, outcome) in [
        ("transaction", transaction),
        ("write", write),
        ("read", read),
    ] {
        assert!(
            matches!(outcome, Err(Error::Lost { .. })),
            "{what}: {outcome:?}"
        );
    }
    // The control: who shows no token is let through, and the writes are gone.
    let conn = router.write().await.unwrap();
    for id in 0..3 {
        assert!(!sees(&conn, id).await.unwrap());
    }
    // Told once.
    for db in &clients {
        drop(db.transaction().await.unwrap());
    }
}
