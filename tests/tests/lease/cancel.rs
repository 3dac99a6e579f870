//! Every future of a lease dropped after its first, second, … poll, until it runs to its end: nobody holds it twice, fences only grow, and
//! the next one gets it.

use std::time::{Duration, Instant};

use ha_db::lease::{Fence, Guard, Lease};
use ha_db::postgres::Router;
use ha_testbed::postgres::Postgres;

use crate::polls::{MOST_POLLS, cut_after};
use crate::{DEADLINE, builder, of, started};

/// One that is cut in the moment of being granted costs all of it; an answer may take an eighth of it.
const TTL: u64 = 6;

async fn next(lease: &Lease, highest: &mut Option<Fence>, what: &str) -> Guard {
    let guard = tokio::time::timeout(DEADLINE, lease.acquire()).await;
    let guard = guard.expect(what).expect(what);
    assert!(Some(guard.fence()) > *highest, "{what}: {highest:?}");
    *highest = Some(guard.fence());
    guard
}

async fn bed() -> (ha_testbed::postgres::Cluster, Router) {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = started(builder(&cluster)).await;
    (cluster, router)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_waiting_for_a_lease_keeps_nobody_from_it() {
    let (_cluster, router) = bed().await;
    let lease = of(&router, TTL);
    let mut highest = None;
    for polls in 0..MOST_POLLS {
        let whole = cut_after(polls, lease.acquire()).await;
        let what = format!("acquire, {polls} polls");
        if let Some(guard) = whole {
            let guard = guard.unwrap();
            assert!(Some(guard.fence()) > highest, "{what}");
            guard.release().await.unwrap();
            eprintln!("acquire: cut at {polls} points");
            assert!(polls > 3);
            return;
        }
        let guard = next(&lease, &mut highest, &what).await;
        assert_eq!(guard.check(), Ok(guard.fence()));
        guard.release().await.unwrap();
    }
    panic!("acquire never ran to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_while_giving_back_holds_nothing() {
    let (_cluster, router) = bed().await;
    let lease = of(&router, TTL);
    let mut highest = None;
    for polls in 0..MOST_POLLS {
        let what = format!("release, {polls} polls");
        let guard = next(&lease, &mut highest, &what).await;
        let whole = cut_after(polls, guard.release()).await;
        // A busy server may not answer in time.
        if let Some(Ok(())) = whole {
            assert_eq!(lease.holder().await.unwrap(), None, "{what}");
            eprintln!("release: cut at {polls} points");
            assert!(polls > 3);
            return;
        }
    }
    panic!("release never ran to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_held_lease_can_be_cut_and_it_stays_held() {
    let (_cluster, router) = bed().await;
    // Long: nothing here takes it away.
    let lease = of(&router, 600);
    let guard = lease.acquire().await.unwrap();
    let mut ended = [false; 3];
    for polls in 0..MOST_POLLS {
        let tx = router.transaction().await.unwrap();
        let confirmed = cut_after(polls, guard.confirm(&tx)).await;
        ended[0] |= confirmed.is_some_and(|confirmed| confirmed.is_ok());
        tx.rollback().await.unwrap();
        let holder = cut_after(polls, lease.holder()).await;
        ended[1] |= holder.is_some_and(|holder| holder.unwrap() == Some(guard.fence()));
        let work = async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        };
        ended[2] |= cut_after(polls, guard.run(work)).await == Some(Ok(()));
        // One poll: nothing wakes it while the lease is held.
        assert!(cut_after(polls.min(1), guard.lost()).await.is_none());
        assert_eq!(guard.check(), Ok(guard.fence()), "{polls} polls");
        let tx = router.transaction().await.unwrap();
        guard.confirm(&tx).await.unwrap();
        tx.commit().await.unwrap();
        if ended == [true; 3] {
            assert!(polls > 1);
            return;
        }
    }
    panic!("some never ran to their end: {ended:?}");
}

/// A loss that was told of is final, also where a renewal goes on unhindered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_has_said_that_it_is_lost_never_holds_again() {
    let (cluster, router) = bed().await;
    let lease = of(&router, 3);
    let client = cluster.nodes[0].client().await.unwrap();
    // A snapshot from before the grant does not show it.
    client
        .batch_execute("CREATE TABLE IF NOT EXISTS note (id int)")
        .await
        .unwrap();
    let options = ha_db::postgres::TransactionOptions::default()
        .isolation(tokio_postgres::IsolationLevel::RepeatableRead);
    let tx = router.transaction_with(options).await.unwrap();
    tx.query("SELECT 1 FROM note", &[]).await.unwrap();
    let guard = lease.acquire().await.unwrap();
    let refused = guard.confirm(&tx).await.unwrap_err();
    assert!(refused.is_lost(), "{refused:?}");
    tx.rollback().await.unwrap();
    // Several renewals' time, in which none comes any more.
    let beat = async || {
        let row = client.query_one("SELECT beat FROM ha_lease", &[]).await;
        row.unwrap().get::<_, i64>(0)
    };
    let begun = Instant::now();
    let mut seen = vec![beat().await];
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(guard.check().is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen.push(beat().await);
    }
    seen.dedup();
    // One was perhaps under way.
    assert!(seen.len() <= 2, "{seen:?}");
    assert_eq!(guard.lost().await, guard.check().unwrap_err());
}
