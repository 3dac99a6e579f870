//! A primary and two replicas, and a client that does not notice which is which.
//!
//! ```console
//! $ cargo run -p postgres-examples --bin postgres-router
//! ```
//!
//! It starts real servers on loopback and kills the primary in the middle of a transaction. The transaction runs again on
//! the successor, reads show what was written before, and each step says which node has served it.

use std::error::Error;
use std::time::Duration;

use ha_db::postgres::{self, Causal, Db, Retry, Router, TransactionOptions};
use ha_testbed::postgres::Postgres;

const PATIENCE: Duration = Duration::from_secs(30);

async fn add(db: &Db, text: &str) -> Result<String, postgres::Error> {
    let retry = Retry::default().attempts(100).deadline(PATIENCE);
    // Resolvable: should the answer to the commit be lost, it is found out instead of guessed.
    let options = TransactionOptions::default().resolvable();
    db.run_with(options, retry, async |tx| {
        let insert = tx.prepare_cached("INSERT INTO note VALUES ($1)").await?;
        tx.execute(&insert, &[&text]).await?;
        Ok(tx.node().to_owned())
    })
    .await
}

async fn count(db: &Db) -> Result<(i64, String), postgres::Error> {
    let conn = db.read().await?; // a replica that shows what this client has written
    let limit = Duration::from_secs(2);
    let row = conn
        .within(limit, conn.query_one("SELECT count(*) FROM note", &[]))
        .await?;
    Ok((row.get(0), conn.node().to_owned()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Postgres::primary().replicas(2).start().await?;
    let nodes = cluster.nodes.iter();
    let router = nodes
        .fold(Router::builder(), |builder, node| {
            builder.node(&node.name, node.conninfo())
        })
        .write_wait(PATIENCE)
        .build()?;
    router.wait_primary(PATIENCE).await?;
    let create = router.write().await?;
    create
        .batch_execute("CREATE TABLE note (text text)")
        .await?;
    drop(create);

    let db = router.db(Causal::default());
    println!("written on {}", add(&db, "before").await?);
    let (notes, node) = count(&db).await?;
    println!("{notes} note read on {node}");

    cluster.wait_caught_up(0, PATIENCE).await?;
    println!("killing {}", cluster.nodes[0].name);
    cluster.nodes[0].kill().await?;
    let (notes, node) = count(&db).await?;
    println!("{notes} note read on {node}, while there is no primary");
    let (written, promoted) = tokio::join!(add(&db, "meanwhile"), cluster.promote(1));
    promoted?;
    println!("written on {}", written?);
    let (notes, node) = count(&db).await?;
    println!("{notes} notes read on {node}");
    assert_eq!(notes, 2);
    Ok(())
}
