//! What it takes to be lent a connection: time, allocations, statements on the server; and what a probe costs a node.
//!
//! One thread, so that nothing else of the process runs within a checkout. Connections are lent in batches, all are there, and the
//! next batch waits until all are back: what a return does in the background is no part of `read_checkout`, but is of `read_cycle`. The one
//! allocation of ours is the client's context, which the service makes for each request.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{Causal, Consistency, Router, Token};
use ha_testbed::postgres::{Client, Postgres};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region};
use tokio_postgres::types::Type;

use crate::bed::{Bed, LIMIT};
use crate::report::{OURS, Report};
use crate::table::quantile;
use crate::{Outcome, Words, ours, pools};

const BATCH: usize = 8;
const DEADPOOL: &str = "deadpool";
/// Told from all others by its text, on the server too.
const READ: &str = "SELECT /* bench */ $1::int";

pub(crate) fn run(words: &Words, report: &mut Report) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(words, report))
}

async fn measure(words: &Words, report: &mut Report) -> Outcome<()> {
    let servers = Postgres::primary()
        .replicas(1)
        .setting("shared_preload_libraries", "pg_stat_statements")
        .setting("pg_stat_statements.track_planning", "on");
    let bed = Bed::start(servers, false).await?;
    let primary = bed.cluster.nodes[0].client().await?;
    primary
        .batch_execute("CREATE EXTENSION pg_stat_statements")
        .await?;
    bed.cluster.wait_caught_up(0, LIMIT).await?;
    let replica = bed.cluster.nodes[1].client().await?;
    let nodes = bed.nodes();
    let router = ours::builder(&nodes).build()?;
    ours::ready(&router, 1).await?;
    let pool = pools::pool(&nodes[1].1)?;

    let token = written(&router).await?;
    proven(&router, token).await?;
    let batches = if words.quick { 200 } else { 5_000 };
    checkouts(&router, token, &pool, batches, report).await?;
    cycles(&router, token, &pool, batches, report).await?;
    statements(&router, token, &pool, &replica, report).await?;
    probes(&replica, report).await
}

/// A token of a write that the replica has replayed.
async fn written(router: &Router) -> Outcome<Token> {
    let tx = router.transaction().await?;
    tx.batch_execute("CREATE TABLE IF NOT EXISTS written ()")
        .await?;
    Ok(tx.commit().await?)
}

/// Returns when the replica is known to have it, so that a read needs no proof.
async fn proven(router: &Router, token: Token) -> Outcome<()> {
    let end = Instant::now() + LIMIT;
    while router.status().nodes[1].lsn < Some(token.lsn()) {
        if Instant::now() > end {
            return Err("the replica does not catch up".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A connection, and the client that has it.
type Lent = (Causal, ha_db::postgres::Conn);

/// As a request does that came with this token.
async fn lent(router: &Router, token: Token) -> Outcome<Lent> {
    let causal = Causal::new(Some(token));
    let conn = router.db(causal.clone()).read().await?;
    Ok((causal, conn))
}

async fn lent_eventually(router: &Router) -> Outcome<Lent> {
    let causal = Causal::default();
    let db = router.db(causal.clone());
    let conn = db.read_with(Consistency::Eventual).await?;
    Ok((causal, conn))
}

/// Gives all back, and returns when the next one can be lent any of them: a client's context knows what was done as the last thing
/// before that.
async fn back(held: Vec<Lent>) {
    let (clients, conns): (Vec<_>, Vec<_>) = held.into_iter().unzip();
    drop(conns);
    for client in clients {
        client.settle().await;
    }
}

async fn checkouts(
    router: &Router,
    token: Token,
    pool: &Pool,
    batches: usize,
    report: &mut Report,
) -> Outcome<()> {
    let (mut ours, mut bare, mut eventual) = (Vec::new(), Vec::new(), Vec::new());
    let mut allocations = [0usize; 3];
    for batch in 0..batches {
        let warm = batch >= batches / 10;
        let mut held = Vec::with_capacity(BATCH);
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        let begun = Instant::now();
        for _ in 0..BATCH {
            held.push(lent(router, token).await?);
        }
        let took = begun.elapsed();
        let change = region.change();
        if warm {
            ours.push(took / BATCH as u32);
            allocations[0] += change.allocations + change.reallocations;
        }
        back(held).await;

        let mut held = Vec::with_capacity(BATCH);
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        let begun = Instant::now();
        for _ in 0..BATCH {
            held.push(lent_eventually(router).await?);
        }
        let took = begun.elapsed();
        let change = region.change();
        if warm {
            eventual.push(took / BATCH as u32);
            allocations[2] += change.allocations + change.reallocations;
        }
        back(held).await;

        let mut held = Vec::with_capacity(BATCH);
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        let begun = Instant::now();
        for _ in 0..BATCH {
            held.push(pool.get().await?);
        }
        let took = begun.elapsed();
        let change = region.change();
        if warm {
            bare.push(took / BATCH as u32);
            allocations[1] += change.allocations + change.reallocations;
        }
        drop(held);
    }
    let per_call = |count: usize, of: &[Duration]| count as f64 / (of.len() * BATCH) as f64;
    for (who, case, times, count) in [
        (OURS, "read_checkout_by_token", &ours, allocations[0]),
        (DEADPOOL, "read_checkout_by_token", &bare, allocations[1]),
        (OURS, "read_checkout_eventual", &eventual, allocations[2]),
        (DEADPOOL, "read_checkout_eventual", &bare, allocations[1]),
    ] {
        let median = quantile(times, 0.5).unwrap_or_default();
        report.add(case, "ns", who, median.as_nanos() as f64);
        report.add(case, "allocations", who, per_call(count, times));
    }
    Ok(())
}

/// Checkout, one statement, and back, one after the other.
async fn cycles(
    router: &Router,
    token: Token,
    pool: &Pool,
    times: usize,
    report: &mut Report,
) -> Outcome<()> {
    let value = &[(&7i32 as _, Type::INT4)];
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let begun = Instant::now();
        lent(router, token)
            .await?
            .1
            .query_typed(READ, value)
            .await?;
        ours.push(begun.elapsed());
        let begun = Instant::now();
        pool.get().await?.query_typed(READ, value).await?;
        bare.push(begun.elapsed());
    }
    for (who, times) in [(OURS, ours), (DEADPOOL, bare)] {
        let median = quantile(&times, 0.5).unwrap_or_default();
        report.add("read_cycle", "ns", who, median.as_nanos() as f64);
    }
    Ok(())
}

/// Statements that the replica ran, by what they are for.
async fn ran(replica: &Client) -> Outcome<(f64, f64)> {
    let sql = "SELECT coalesce(sum(calls) FILTER (WHERE query LIKE '%/* bench */%'), 0)::float8, \
        coalesce(sum(calls) FILTER (WHERE query NOT LIKE '%/* bench */%' \
            AND query NOT LIKE '%pg_control_system%' AND query NOT LIKE '%pg_stat_statements%'), 0)::float8 \
        FROM pg_stat_statements";
    let row = replica.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

async fn statements(
    router: &Router,
    token: Token,
    pool: &Pool,
    replica: &Client,
    report: &mut Report,
) -> Outcome<()> {
    const READS: usize = 500;
    let key = KeyRing::from(Key::from_bytes(&[7; 32])?);
    let text = token.sign(&key);
    for who in [OURS, DEADPOOL] {
        replica
            .batch_execute("SELECT pg_stat_statements_reset()")
            .await?;
        let value = &[(&7i32 as _, Type::INT4)];
        for _ in 0..READS {
            if who == OURS {
                let causal = Causal::new(Some(Token::verify(&text, &key)?));
                let db = router.db(causal.clone());
                db.read().await?.query_typed(READ, value).await?;
                causal.settle().await;
            } else {
                pool.get().await?.query_typed(READ, value).await?;
            }
        }
        let (own, other) = ran(replica).await?;
        report.add(
            "statements_per_read_own",
            "statements",
            who,
            own / READS as f64,
        );
        report.add(
            "statements_per_read_other",
            "statements",
            who,
            other / READS as f64,
        );
    }
    Ok(())
}

async fn probes(replica: &Client, report: &mut Report) -> Outcome<()> {
    replica
        .batch_execute("SELECT pg_stat_statements_reset()")
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let sql = "SELECT sum(calls)::float8, (sum(total_plan_time + total_exec_time) / sum(calls))::float8 \
        FROM pg_stat_statements WHERE query LIKE '%pg_control_system%' AND query NOT LIKE '%pg_stat_statements%'";
    let row = replica.query_one(sql, &[]).await?;
    let (calls, ms): (Option<f64>, Option<f64>) = (row.get(0), row.get(1));
    report.add("probe", "per_second", OURS, calls.unwrap_or(0.0) / 5.0);
    report.add("probe", "ns", OURS, ms.unwrap_or(0.0) * 1e6);
    Ok(())
}
