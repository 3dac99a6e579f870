//! Two processes that share a lease, one of which is stopped for longer than the lease lasts.

use std::time::Duration;

use ha_db::lease::{Config, Guard, Lease};
use ha_db::postgres::Router;
use ha_testbed::postgres::{Client, Postgres};
use ha_testbed::process::{Bed, Process, Spec};

use crate::{eventually, started};

const NODE: &str = "HA_LEASE_NODE";
const NAME: &str = "HA_LEASE_NAME";
/// Goes on without asking whether it still holds the lease.
const NAIVE: &str = "HA_LEASE_NAIVE";

fn config() -> Config {
    Config::of(Duration::from_secs(4))
}

/// The body of a worker process; without its environment there is nothing to do.
#[test]
fn a_worker_process_works_while_it_holds_the_lease_when_the_environment_names_a_server() {
    let (Ok(node), Ok(name)) = (std::env::var(NODE), std::env::var(NAME)) else {
        return;
    };
    let naive = std::env::var(NAIVE).is_ok();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let router = started(Router::builder().node("a", node)).await;
        let lease = Lease::with_config(router.clone(), "work", config()).unwrap();
        loop {
            let guard = lease.acquire().await.unwrap();
            while naive || guard.check().is_ok() {
                // What fails is tried again, and what has lost the lease waits for it again.
                let _ = step(&router, &guard, &name, naive).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

async fn step(
    router: &Router,
    guard: &Guard,
    name: &str,
    naive: bool,
) -> Result<(), ha_db::lease::Error> {
    let fence = i64::try_from(u64::from(guard.fence())).unwrap();
    let tx = router.transaction().await?;
    let sql = "INSERT INTO work (fence, worker) VALUES ($1, $2)";
    tx.execute(sql, &[&fence, &name]).await?;
    if !naive {
        guard.confirm(&tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

fn worker(bed: &Bed, node: &str, name: &str, naive: bool) -> Process {
    let program = std::env::current_exe().unwrap();
    let spec = Spec::new(name, program)
        .arg("processes::a_worker_process_works_while_it_holds_the_lease_when_the_environment_names_a_server")
        .args(["--exact", "--nocapture"])
        .env(NODE, node)
        .env(NAME, name)
        .as_owner();
    let spec = if naive { spec.env(NAIVE, "1") } else { spec };
    bed.spawn(spec).unwrap()
}

async fn steps(client: &Client, name: &str) -> i64 {
    let sql = "SELECT count(*) FROM work WHERE worker = $1";
    client.query_one(sql, &[&name]).await.unwrap().get(0)
}

/// Steps under a lower fence than an earlier step had.
async fn stale(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM work late WHERE EXISTS \
         (SELECT FROM work early WHERE early.id < late.id AND early.fence > late.fence)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Stops the first holder for longer than its lease, and returns how many steps were stale in the end.
async fn stop_and_go(naive: bool) -> i64 {
    let cluster = Postgres::primary().start().await.unwrap();
    let node = cluster.nodes[0].conninfo();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE work (id bigserial PRIMARY KEY, fence bigint, worker text)")
        .await
        .unwrap();
    let bed = Bed::temporary().unwrap();
    let one = worker(&bed, &node, "one", naive);
    eventually("the first works", async || steps(&client, "one").await > 5).await;
    let two = worker(&bed, &node, "two", false);
    for round in 0..3 {
        let (stopped, other) = if round % 2 == 0 {
            (&one, "two")
        } else {
            (&two, "one")
        };
        if naive && round > 0 {
            break;
        }
        // Half-way in a statement or between two, as it happens to be.
        stopped.freeze().unwrap();
        let before = steps(&client, other).await;
        eventually("the other has taken over", async || {
            steps(&client, other).await > before + 5
        })
        .await;
        stopped.thaw().unwrap();
        let total = async || steps(&client, "one").await + steps(&client, "two").await;
        let then = total().await;
        eventually("work goes on after it has woken up", async || {
            total().await > then + 40
        })
        .await;
    }
    stale(&client).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_stopped_for_longer_than_its_lease_does_nothing_more_under_it() {
    assert_eq!(stop_and_go(false).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_not_ask_goes_on_under_a_lease_of_somebody_else() {
    assert!(stop_and_go(true).await > 0);
}
