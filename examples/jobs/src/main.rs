//! A background worker that carries causal tokens.
//!
//! ```console
//! $ cargo run -p jobs
//! ```
//!
//! A producer commits an order and puts a job about it into a queue outside of the database, as one does with Redis, Kafka or SQS. The
//! worker can be so fast that a replica does not have the order yet. Told the producer's token, it reads from a replica that has it;
//! the control, without the token, misses what the replica has not replayed yet, if anything. What the worker writes advances the token, and goes on with the job's result.

use std::error::Error;
use std::time::Duration;

use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{self, Causal, Consistency, Retry, Router, Token};
use ha_testbed::postgres::Postgres;
use tokio::sync::mpsc;

const ORDERS: i64 = 500;
const PATIENCE: Duration = Duration::from_secs(30);

/// What travels through the queue: text, as everything that leaves the process.
struct Job {
    order: i64,
    token: String,
}

/// Takes an order and returns the job about it.
async fn place(router: &Router, keys: &KeyRing, order: i64) -> Result<Job, postgres::Error> {
    let db = router.db(Causal::default());
    db.run(async |tx| {
        let insert = tx.prepare_cached("INSERT INTO orders VALUES ($1)").await?;
        tx.execute(&insert, &[&order]).await?;
        Ok::<_, postgres::Error>(())
    })
    .await?;
    // Settled: what this client has written is in it.
    let token = db.token().await;
    let token = token.map(|token| token.sign(keys)).unwrap_or_default();
    Ok(Job { order, token })
}

#[derive(Debug, Default)]
struct Tally {
    on_replicas: i64,
    missed: i64,
    missed_without_token: i64,
}

/// Bills an order, from wherever it can be read.
async fn bill(
    router: &Router,
    keys: &KeyRing,
    job: &Job,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    const READ: &str = "SELECT count(*) FROM orders WHERE id = $1";
    let naive = router.db(Causal::default());
    let conn = naive.read_with(Consistency::Eventual).await?;
    let read = conn.prepare_cached(READ).await?;
    let found: i64 = conn.query_one(&read, &[&job.order]).await?.get(0);
    tally.missed_without_token += 1 - found;
    drop(conn);

    // A token that was changed on the way says nothing; an error here would be an attack or a wrong key.
    let token = Token::verify(&job.token, keys)?;
    let db = router.db(Causal::new(Some(token)));
    let (found, node) = db
        .run_read(
            Consistency::ReadYourWrites,
            Retry::default(),
            async |conn| {
                let read = conn.prepare_cached(READ).await?;
                let found: i64 = conn.query_one(&read, &[&job.order]).await?.get(0);
                Ok::<_, postgres::Error>((found, conn.node().to_owned()))
            },
        )
        .await?;
    tally.missed += 1 - found;
    tally.on_replicas += i64::from(router.status().primary != Some(node));
    // Once per order, however often the queue delivers the job.
    db.run(async |tx| {
        let sql = "INSERT INTO bills VALUES ($1) ON CONFLICT DO NOTHING";
        let insert = tx.prepare_cached(sql).await?;
        tx.execute(&insert, &[&job.order]).await?;
        Ok::<_, postgres::Error>(())
    })
    .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Postgres::primary().replicas(2).start().await?;
    let nodes = cluster.nodes.iter();
    let builder = nodes.fold(Router::builder(), |builder, node| {
        builder.node(&node.name, node.conninfo())
    });
    // Two processes in real life: nothing is shared between them but the queue and the key.
    let (producer, worker) = (builder.clone().build()?, builder.build()?);
    for router in [&producer, &worker] {
        router.wait_primary(PATIENCE).await?;
    }
    let create = producer.write().await?;
    let tables =
        "CREATE TABLE orders (id bigint PRIMARY KEY); CREATE TABLE bills (id bigint PRIMARY KEY)";
    create.batch_execute(tables).await?;
    drop(create);
    cluster.wait_caught_up(0, PATIENCE).await?;

    let keys = KeyRing::from(Key::from_bytes(&std::array::from_fn::<u8, 32, _>(|_| {
        fastrand::u8(..)
    }))?);
    let (queue, mut jobs) = mpsc::channel(64);
    let placing = async {
        for order in 0..ORDERS {
            let job = place(&producer, &keys, order).await?;
            if queue.send(job).await.is_err() {
                break;
            }
        }
        drop(queue);
        Ok::<_, Box<dyn Error>>(())
    };
    let billing = async {
        let mut tally = Tally::default();
        while let Some(job) = jobs.recv().await {
            bill(&worker, &keys, &job, &mut tally).await?;
        }
        Ok::<_, Box<dyn Error>>(tally)
    };
    let (placed, tally) = tokio::join!(placing, billing);
    placed?;
    let tally = tally?;
    println!("{ORDERS} jobs: {} read on replicas", tally.on_replicas);
    println!(
        "orders missed with the token: {}, without it: {}",
        tally.missed, tally.missed_without_token
    );
    assert_eq!(tally.missed, 0);
    Ok(())
}
