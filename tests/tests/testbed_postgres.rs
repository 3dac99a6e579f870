//! PostgreSQL beds: replication works, and so does breaking it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ha_testbed::postgres::Postgres;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_the_primary_takes_is_seen_on_both_replicas() {
    let started = std::time::Instant::now();
    let cluster = Postgres::primary().replicas(2).start().await.unwrap();
    println!("three nodes in {:?}", started.elapsed());
    let primary = cluster.nodes[0].client().await.unwrap();
    primary
        .batch_execute("create table note (id int); insert into note values (7)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    for node in &cluster.nodes[1..] {
        let row = node
            .client()
            .await
            .unwrap()
            .query_one("select id from note", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), 7);
        assert!(
            node.client()
                .await
                .unwrap()
                .batch_execute("insert into note values (8)")
                .await
                .is_err()
        );
    }
}
