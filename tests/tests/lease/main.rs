//! Leases on real servers: standbys, stopped processes, failovers.
#![allow(clippy::unwrap_used)]

mod cancel;
mod processes;

#[path = "../polls/mod.rs"]
mod polls;

use std::time::{Duration, Instant};

use ha_db::lease::{self, Config, Error, Lease, Loss};
use ha_db::postgres::{Builder, Router};
use ha_testbed::postgres::{Cluster, Postgres};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn builder(cluster: &Cluster) -> Builder {
    let nodes = cluster.nodes.iter();
    nodes.fold(Router::builder(), |builder, node| {
        builder.node(&node.name, node.conninfo())
    })
}

pub(crate) async fn started(builder: Builder) -> Router {
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    lease::migrate(&router).await.unwrap();
    router
}

fn of(router: &Router, ttl: u64) -> Lease {
    let config = Config::of(Duration::from_secs(ttl));
    Lease::with_config(router.clone(), "job", config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_holds_it_and_each_grant_has_a_higher_fence() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = started(builder(&cluster)).await;
    let lease = of(&router, 60);
    let contenders: Vec<_> = (0..5)
        .map(|_| {
            let lease = lease.clone();
            tokio::spawn(async move { lease.acquire().await.unwrap() })
        })
        .collect();
    let (mut first, mut waiting) = (None, Vec::new());
    eventually("one has it", async || {
        lease.holder().await.unwrap().is_some() && contenders.iter().any(|one| one.is_finished())
    })
    .await;
    for contender in contenders {
        if contender.is_finished() && first.is_none() {
            first = Some(contender.await.unwrap());
        } else {
            waiting.push(contender);
        }
    }
    let mut holder = first.unwrap();
    let mut fences = vec![holder.fence()];
    while !waiting.is_empty() {
        assert!(waiting.iter().all(|one| !one.is_finished()), "two hold it");
        assert_eq!(holder.check(), Ok(holder.fence()));
        assert_eq!(lease.holder().await.unwrap(), Some(holder.fence()));
        // Given back, it is taken at the next look, long before its minute is over.
        if waiting.len() % 2 == 0 {
            holder.release().await.unwrap();
        } else {
            drop(holder);
        }
        eventually("the next has it", async || {
            waiting.iter().any(|one| one.is_finished())
        })
        .await;
        let next = waiting.iter().position(|one| one.is_finished()).unwrap();
        holder = waiting.swap_remove(next).await.unwrap();
        fences.push(holder.fence());
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
    holder.release().await.unwrap();
    assert_eq!(lease.holder().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_does_not_cost_the_lease() {
    let cluster = Postgres::primary().start().await.unwrap();
    let small = builder(&cluster)
        .pool_size(1)
        .warm_connections(0)
        .pool_wait(Duration::from_millis(100));
    let router = started(small).await;
    let guard = of(&router, 6).acquire().await.unwrap();
    let conn = router.write().await.unwrap();
    assert!(router.write().await.is_err(), "the pool is full");
    let begun = Instant::now();
    let client = cluster.nodes[0].client().await.unwrap();
    eventually("it was renewed past its time", async || {
        assert_eq!(guard.check(), Ok(guard.fence()));
        let row = client.query_one("SELECT beat FROM ha_lease", &[]).await;
        row.unwrap().get::<_, i64>(0) >= 3 && begun.elapsed() > Duration::from_secs(7)
    })
    .await;
    drop(conn);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_without_its_database_lets_go_before_another_may_have_it() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = started(builder(&cluster)).await;
    let guard = of(&router, 6).acquire().await.unwrap();
    cluster.nodes[0].freeze().unwrap();
    let work = std::future::pending::<()>();
    let lost = tokio::time::timeout(DEADLINE, guard.run(work)).await;
    assert_eq!(lost.unwrap(), Err(Loss::Expired));
    assert_eq!(guard.check(), Err(Loss::Expired));
    cluster.nodes[0].thaw().unwrap();
    // What is lost stays lost, even if the store would have it back.
    let fence = guard.fence();
    let other = of(&router, 6).acquire().await.unwrap();
    assert!(other.fence() > fence);
    let tx = router.transaction().await.unwrap();
    assert!(guard.confirm(&tx).await.unwrap_err().is_lost());
    other.confirm(&tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_outlives_a_failover() {
    let cluster = Postgres::primary()
        .replicas(1)
        .synchronous(true)
        .start()
        .await
        .unwrap();
    let router = started(builder(&cluster)).await;
    let guard = of(&router, 45).acquire().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    let client = cluster.nodes[1].client().await.unwrap();
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = ''",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let beat = async || {
        let row = client.query_one("SELECT beat FROM ha_lease", &[]).await;
        row.unwrap().get::<_, i64>(0)
    };
    let before = beat().await;
    eventually("it is renewed on the successor", async || {
        beat().await > before
    })
    .await;
    assert_eq!(guard.check(), Ok(guard.fence()));
    assert_eq!(guard.fence().epoch(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_a_failover_lost_is_not_given_out_again_under_its_fence() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let router = started(builder(&cluster)).await;
    let lease = of(&router, 6);
    lease.acquire().await.unwrap().release().await.unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.nodes[1].kill().await.unwrap();
    let guard = lease.acquire().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[1].start().await.unwrap();
    cluster.promote(1).await.unwrap();
    let next = tokio::time::timeout(DEADLINE, lease.acquire())
        .await
        .unwrap()
        .unwrap();
    // By then the first one knows, although its successor never had a trace of it.
    assert!(guard.check().is_err());
    assert!(next.fence() > guard.fence());
    assert_eq!((guard.fence().epoch(), next.fence().epoch()), (1, 2));
    // The control: the count in the row alone would have come to the same number.
    let count = |fence: lease::Fence| u64::from(fence) & 0xffff_ffff;
    assert_eq!(count(guard.fence()), 1);
    assert_eq!(count(next.fence()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_names_times_and_a_missing_table_are_named() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = builder(&cluster).build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    for (name, len) in [
        (String::new(), 0),
        ("x".repeat(256), 256),
        ("a\0".into(), 2),
    ] {
        let refused = Lease::new(router.clone(), name);
        assert!(matches!(refused, Err(Error::Name { len: found }) if found == len));
    }
    let zero = Config::of(Duration::ZERO);
    let refused = Lease::with_config(router.clone(), "job", zero).unwrap_err();
    assert!(matches!(refused, Error::Config(_)), "{refused:?}");
    let refused = Lease::new(router, "job").unwrap().acquire().await;
    assert!(matches!(refused, Err(Error::NotMigrated(_))), "{refused:?}");
}
