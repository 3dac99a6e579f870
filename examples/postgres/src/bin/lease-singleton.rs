//! An active/standby pair: one works, the other waits for its lease.
//!
//! ```console
//! $ cargo run -p postgres-examples --bin lease-singleton
//! ```
//!
//! The active one is cut off from its database, stops working before its lease is over, and the standby takes over with a higher
//! fence. Then the second gives its lease back, and the first is active again within a look.

use std::error::Error;
use std::time::Duration;

use ha_db::lease::{self, Config, Guard, Lease, Loss};
use ha_db::postgres::Router;
use ha_testbed::link::Link;
use ha_testbed::postgres::{Cluster, Postgres};

const PATIENCE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(4);

/// One half of the pair, which reaches the database over its own link.
async fn half(cluster: &Cluster) -> Result<(Link, Router, Lease), Box<dyn Error>> {
    let link = Link::to(cluster.nodes[0].addr()).await?;
    let port = link.addr().port();
    let node = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let router = Router::builder()
        .node("a", node)
        .write_wait(PATIENCE)
        .build()?;
    lease::migrate(&router).await?;
    let lease = Lease::with_config(router.clone(), "report", Config::of(TTL))?;
    Ok((link, router, lease))
}

/// What only one may do. Each step is confirmed in the transaction that does it.
async fn work(name: &str, router: &Router, guard: &Guard, steps: u32) -> Result<(), lease::Error> {
    for step in 0..steps {
        let tx = router.transaction().await?;
        let fence = i64::try_from(u64::from(guard.fence())).unwrap_or(i64::MAX);
        let sql = "INSERT INTO report (fence, worker) VALUES ($1, $2)";
        tx.execute(sql, &[&fence, &name]).await?;
        guard.confirm(&tx).await?;
        tx.commit().await?;
        println!("{name}: step {step} under fence {}", guard.fence());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Postgres::primary().start().await?;
    let client = cluster.nodes[0].client().await?;
    client
        .batch_execute("CREATE TABLE report (id bigserial, fence bigint, worker text)")
        .await?;
    let (link, first_router, first) = half(&cluster).await?;
    let (_link, second_router, second) = half(&cluster).await?;

    let active = first.acquire().await?;
    work("first", &first_router, &active, 3).await?;

    println!("first: cut off");
    link.silence().await?;
    let standby = tokio::spawn(async move { second.acquire().await });
    // It knows by its own clock, a margin before anybody else is let in.
    let loss = active.run(std::future::pending::<()>()).await;
    assert_eq!(loss, Err(Loss::Expired));
    assert!(!standby.is_finished());
    println!("first: {}", Loss::Expired);
    let guard = standby.await??;
    work("second", &second_router, &guard, 3).await?;

    link.restore().await?;
    drop(active);
    give_back(guard).await;
    let again = first.acquire().await?;
    work("first", &first_router, &again, 1).await?;

    let stale = "SELECT count(*) FROM report a JOIN report b ON a.id < b.id AND a.fence > b.fence";
    let stale: i64 = client.query_one(stale, &[]).await?.get(0);
    println!("{stale} steps under a fence that had been passed");
    assert_eq!(stale, 0);
    give_back(again).await;
    Ok(())
}

/// A database that is too busy to take it back in time does no harm: the lease ends by itself.
async fn give_back(guard: Guard) {
    if let Err(error) = guard.release().await {
        eprintln!("not given back: {error}");
    }
}
