//! Replicas that fall behind: what each kind of read does about them, each beside the naive way.

use std::time::{Duration, Instant};

use ha_db::postgres::{Causal, Consistency, Db, Error, Event, Router};
use ha_testbed::postgres::{Cluster, Postgres};

use crate::support::{DEADLINE, all_in_use, builder, eventually, prepared, sees, write};

async fn router(
    cluster: &Cluster,
    adjust: impl Fn(ha_db::postgres::Builder) -> ha_db::postgres::Builder,
) -> Router {
    let router = adjust(builder(cluster)).build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    all_in_use(&router, cluster.nodes.len() - 1).await;
    router
}

/// Writes until the router has ejected these nodes.
async fn until_ejected(db: &Db, ids: &mut std::ops::RangeFrom<i64>, nodes: &[usize]) {
    eventually("the paused replicas are ejected", async || {
        write(db, ids.next().unwrap()).await;
        let status = db.router().status();
        nodes.iter().all(|node| status.nodes[*node].ejected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_replay_is_paused_gets_no_reads_until_it_has_caught_up() {
    let cluster = prepared(Postgres::primary(), 2).await;
    let (told, events) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let router = router(&cluster, |builder| {
        let told = told.lock().unwrap().clone();
        builder.on_event(move |event| drop(told.send(event.clone())))
    })
    .await;
    let db = router.db(Causal::default());
    let mut ids = 0..;
    cluster.pause_replay(2).await.unwrap();
    until_ejected(&db, &mut ids, &[2]).await;
    let naive = cluster.nodes[2].client().await.unwrap();
    let mut missed = 0;
    for _ in 0..50 {
        let id = ids.next().unwrap();
        write(&db, id).await;
        missed += i32::from(!sees(&naive, id).await.unwrap());
        for consistency in [Consistency::ReadYourWrites, Consistency::Eventual] {
            let conn = db.read_with(consistency).await.unwrap();
            assert_ne!(conn.node(), cluster.nodes[2].name);
            let seen = sees(&conn, id).await.unwrap();
            assert!(seen || consistency == Consistency::Eventual);
        }
    }
    assert_eq!(missed, 50, "the control must miss every write");
    cluster.resume_replay(2).await.unwrap();
    all_in_use(&router, 2).await;
    let name = cluster.nodes[2].name.as_str();
    let told: Vec<Event> = events.try_iter().collect();
    let place = |wanted: fn(&Event) -> Option<&str>| {
        told.iter().position(|event| wanted(event) == Some(name))
    };
    let ejected = place(|event| match event {
        Event::Ejected { node, .. } => Some(node),
        _ => None,
    });
    let back = told
        .iter()
        .rposition(|event| matches!(event, Event::Readmitted { node } if **node == *name));
    assert!(ejected.is_some() && back > ejected, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_replica_paused_reads_go_to_the_primary_and_no_more_than_its_share() {
    const SHARE: usize = 2;
    let cluster = prepared(Postgres::primary(), 2).await;
    let router = router(&cluster, |builder| {
        builder
            .fallback_reads(SHARE)
            .pool_wait(Duration::from_millis(300))
    })
    .await;
    let db = router.db(Causal::default());
    let mut ids = 0..;
    for replica in [1, 2] {
        cluster.pause_replay(replica).await.unwrap();
    }
    until_ejected(&db, &mut ids, &[1, 2]).await;
    let id = ids.next().unwrap();
    write(&db, id).await;
    let mut held = Vec::new();
    for _ in 0..SHARE {
        let conn = db.read().await.unwrap();
        assert_eq!(conn.node(), cluster.nodes[0].name);
        assert!(sees(&conn, id).await.unwrap());
        held.push(conn);
    }
    let refused = db.read().await.unwrap_err();
    assert!(matches!(refused, Error::NoReplica), "{refused:?}");
    // Reads have had their share; writes have the rest of the pool.
    write(&db, ids.next().unwrap()).await;
    held.pop();
    let conn = db.read().await.unwrap();
    assert!(sees(&conn, id).await.unwrap());
    for replica in [1, 2] {
        cluster.resume_replay(replica).await.unwrap();
    }
    all_in_use(&router, 2).await;
    drop((conn, held));
    eventually("reads are back on the replicas", async || {
        db.read().await.unwrap().node() != cluster.nodes[0].name
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_200_ms_late_serve_a_bound_of_500_ms_and_are_late_for_none_of_50_ms() {
    let bed = Postgres::primary().setting("recovery_min_apply_delay", "200ms");
    let cluster = prepared(bed, 2).await;
    // Busy as the machine may be, only the bounds are to decide here.
    let router = router(&cluster, |builder| builder.max_lag(Duration::from_secs(20))).await;
    let writer = router.db(Causal::default());
    let mut written: Vec<(i64, Instant)> = Vec::new();
    let (mut on_replicas, mut on_primary, mut naive_late) = (0, 0, 0);
    let naive = cluster.nodes[1].client().await.unwrap();
    let due = |written: &[(i64, Instant)], bound: Duration| {
        let mut written = written.iter().rev();
        written
            .find(|(_, at)| at.elapsed() >= bound)
            .map(|(id, _)| *id)
    };
    for id in 0..300 {
        write(&writer, id).await;
        written.push((id, Instant::now()));
        for bound in [50, 500].map(Duration::from_millis) {
            let last = due(&written, bound);
            let conn = router
                .db(Causal::default())
                .read_with(Consistency::Bounded(bound))
                .await
                .unwrap();
            let replica = conn.node() != cluster.nodes[0].name;
            if let Some(last) = last {
                let seen = sees(&conn, last).await.unwrap();
                assert!(
                    seen,
                    "{bound:?} on {}: write {last} is missing",
                    conn.node()
                );
            }
            // A pause of the writer lets a replica catch up, so that it may serve the tighter bound, too.
            if bound == Duration::from_millis(50) {
                on_primary += i32::from(!replica);
            } else {
                on_replicas += i32::from(replica);
            }
        }
        if let Some(last) = due(&written, Duration::from_millis(50)) {
            naive_late += i32::from(!sees(&naive, last).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eprintln!(
        "{on_replicas} of 300 bounded reads on replicas, {naive_late} naive ones later than 50 ms"
    );
    assert!(
        on_replicas > 30 && on_primary > 30,
        "{on_replicas} {on_primary}"
    );
    assert!(naive_late > 0, "the control must be late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounded_reads_go_on_without_a_primary_until_the_bound_has_passed() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let router = router(&cluster, |builder| {
        builder.write_wait(Duration::from_secs(2))
    })
    .await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    // The router has to have seen that.
    eventually("a bounded read is served by the replica", async || {
        let conn = db
            .read_with(Consistency::Bounded(Duration::from_secs(1)))
            .await
            .unwrap();
        conn.node() == cluster.nodes[1].name
    })
    .await;
    cluster.nodes[0].kill().await.unwrap();
    eventually("the router knows", async || {
        router.status().primary.is_none()
    })
    .await;
    let long = Consistency::Bounded(Duration::from_secs(3600));
    let conn = db.read_with(long).await.unwrap();
    assert_eq!(conn.node(), cluster.nodes[1].name);
    assert!(sees(&conn, 1).await.unwrap());
    drop(conn);
    let short = Consistency::Bounded(Duration::from_millis(300));
    eventually("the short bound has passed", async || {
        matches!(db.read_with(short).await, Err(Error::NoReplica))
    })
    .await;
    assert!(db.read_with(long).await.is_ok(), "the long one has not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_stay_nearby_and_go_elsewhere_when_everything_there_is_in_use() {
    const POOL: usize = 3;
    let cluster = prepared(Postgres::primary(), 2).await;
    let router = router(&cluster, |builder| {
        builder
            .locality(&cluster.nodes[1].name, "eu-1")
            .locality(&cluster.nodes[2].name, "eu-2")
            .local("eu-2")
            .pool_size(POOL)
            .max_lag(Duration::from_secs(20))
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..POOL {
        let conn = router.read().await.unwrap();
        assert_eq!(conn.node(), cluster.nodes[2].name);
        held.push(conn);
    }
    assert_eq!(router.status().nodes[2].in_use, POOL);
    let elsewhere = router.read().await.unwrap();
    assert_eq!(elsewhere.node(), cluster.nodes[1].name);
    assert!(
        !router.status().nodes[2].ejected,
        "a full pool is not a failed node"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_with_the_fewest_connections_in_use_is_read_from() {
    let cluster = prepared(Postgres::primary(), 2).await;
    let router = router(&cluster, |builder| builder.max_lag(Duration::from_secs(20))).await;
    let first = router.read().await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        let other = router.read().await.unwrap();
        others.push(other);
    }
    let of = |name: &str| others.iter().filter(|conn| conn.node() == name).count();
    let (one, two) = (&cluster.nodes[1].name, &cluster.nodes[2].name);
    let own = |name: &str| usize::from(first.node() == name);
    assert_eq!((of(one) + own(one), of(two) + own(two)), (2, 2));
}
