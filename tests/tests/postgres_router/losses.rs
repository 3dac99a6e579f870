//! Acknowledged writes that a failover has cut off: told, also where nobody knows how far they had come.

use ha_db::idempotency::{self, Claim, Fingerprint, Key, Store};
use ha_db::postgres::{Causal, Error, Lsn, Token};
use ha_testbed::postgres::Postgres;

use crate::support::{DEADLINE, all_in_use, builder, eventually, prepared, sees, started};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_whose_position_was_never_told_is_reported_when_its_server_is_replaced()
 {
    let cluster = prepared(Postgres::primary(), 1).await;
    let router = started(builder(&cluster)).await;
    all_in_use(&router, 1).await;
    // From now on nobody has what is written but the primary.
    cluster.nodes[1].freeze().unwrap();
    let db = router.db(Causal::default());
    let conn = db.write().await.unwrap();
    conn.execute("INSERT INTO note VALUES (1)", &[])
        .await
        .unwrap();
    cluster.nodes[0].freeze().unwrap();
    drop(conn);
    let token = db.token().await.unwrap();
    assert!(token.is_primary_only(), "{token:?}");
    // Killed before it can read on: what is in the sockets' buffers must not reach it.
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    eventually("the promoted one is primary", async || {
        router.status().primary.as_ref() == Some(&cluster.nodes[1].name)
    })
    .await;
    // The control: by its positions alone nothing is missing.
    let naive = Token::new(token.system_id(), token.timeline(), token.lsn());
    eventually("the history is known", async || {
        router.check(&token).is_err()
    })
    .await;
    router.check(&naive).unwrap();
    let conn = router.write().await.unwrap();
    assert!(!sees(&conn, 1).await.unwrap(), "it is gone");
    drop(conn);
    // Whoever carries the token is told, on whichever app server.
    let next = router.db(Causal::new(Some(token)));
    let told = next.read().await.unwrap_err();
    assert!(matches!(told, Error::Lost { .. }), "{told:?}");
    // Once.
    drop(next.read().await.unwrap());
    drop(next.transaction().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_was_acknowledged_by_repeating_it_is_reported_when_it_is_lost() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let router = started(builder(&cluster)).await;
    idempotency::migrate(&router).await.unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.nodes[1].freeze().unwrap();
    let store = Store::new(router.clone());
    let key = Key::parse("payment-1").unwrap();
    let fingerprint = Fingerprint::of([b"100".as_slice()]);
    let claim = async |causal: &Causal| {
        let claim = store.claim(causal, "alice", &key, &fingerprint).await;
        claim.unwrap()
    };
    // The answer to the first one never reached the client.
    let Claim::First(run) = claim(&Causal::default()).await else {
        panic!("it is the first");
    };
    run.finish(b"receipt").await.unwrap();
    let client = Causal::default();
    assert!(matches!(claim(&client).await, Claim::Done(_)));
    let token = client.settle().await.unwrap();
    cluster.nodes[1].kill().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    let lost = |error: Error| matches!(error, Error::Lost { .. });
    eventually("the loss is told", async || {
        router.check(&token).is_err_and(lost)
    })
    .await;
    // The control: what it has only seen is no promise, so that alone would not be told.
    let seen = Token::new(token.system_id(), 0, Lsn(0));
    router.check(&seen).unwrap();
    assert!(matches!(claim(&Causal::default()).await, Claim::First(_)));
}
