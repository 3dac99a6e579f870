//! How long writes stop when the primary is lost or handed over, and how much of that is not the server's own promotion.

use std::time::Duration;

use ha_testbed::postgres::Postgres;

use crate::app::App;
use crate::bare::Bare;
use crate::bed::{Bed, LIMIT};
use crate::libpq::Libpq;
use crate::ours::Ours;
use crate::promoted::{Notice, Promotion, Watch};
use crate::report::Report;
use crate::stage::{CLIENTS, load};
use crate::{Outcome, Words, patroni};

pub(crate) async fn run(words: &Words, report: &mut Report) -> Outcome<()> {
    let rounds = if words.quick { 2 } else { 10 };
    for number in 1..=rounds {
        eprintln!("gap: kill -9, promote, number {number} of {rounds}");
        failover(report).await?;
    }
    let words = Words::only("Patroni switchover", rounds / 2);
    patroni::run(&words, &mut report.gaps).await
}

async fn failover(report: &mut Report) -> Outcome<()> {
    let bed = Bed::start(Postgres::primary().replicas(2), false).await?;
    let nodes = bed.nodes();
    let apps = vec![
        App::Ours(Ours::start(&nodes, CLIENTS)?),
        App::Libpq(Libpq::start(&nodes)?),
        App::Bare(Bare::start(&nodes)?),
    ];
    let loads = load(apps, 2, Duration::ZERO).await?;
    let mut notice = Notice::start(&loads, &bed.cluster.nodes[0].name);
    let mut watch = Watch::start([bed.cluster.nodes[1].conninfo()]);
    let fault = std::time::Instant::now();
    bed.cluster.nodes[0].kill().await?;
    bed.cluster.promote(1).await?;
    let promoted = watch.promoted(LIMIT).await.ok_or("it was not promoted")?;
    // Bare deadpool never finds the new one.
    for load in &loads[..2] {
        load.all_write(LIMIT / 10).await;
    }
    for load in loads {
        let (who, rows) = (load.name(), format!("note_{}", load.name()));
        let stopped = load.stop(fault, async || bed.truth(&rows).await).await?;
        let promotion = Promotion::of(fault, promoted, notice.noticed(), &stopped);
        report
            .gaps
            .add("kill -9, promote", who, stopped, Some(promotion));
    }
    Ok(())
}
