//! Switchovers and failovers by Patroni, one after the other on one cluster, each with loads of its own.

use std::time::Instant;

use ha_testbed::patroni::{Cluster, Patroni};

use crate::app::{App, Nodes};
use crate::bed::{self, LIMIT, create, patroni_client, patroni_nodes};
use crate::libpq::{self, Libpq};
use crate::ours::{self, Ours};
use crate::promoted::{Notice, Promotion, Watch};
use crate::stage::{CLIENTS, load};
use crate::table::Table;
use crate::{Outcome, Words};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Switchover,
    /// The leader's machine is gone: Patroni, PostgreSQL and all.
    Failover,
}

const NAMES: [(&str, How); 2] = [
    ("Patroni switchover", How::Switchover),
    ("Patroni failover", How::Failover),
];

pub(crate) async fn run(words: &Words, table: &mut Table) -> Outcome<()> {
    let wanted = |(name, _): &(&str, How)| words.wants(name) && words.goes_on(name);
    if !NAMES.iter().any(wanted) {
        return Ok(());
    }
    let cluster = Patroni::cluster(3).start().await?;
    let leader = cluster.wait_leader(LIMIT).await?;
    create(&patroni_client(&cluster.nodes[leader]).await?).await?;
    for (name, how) in NAMES {
        if !words.wants(name) {
            continue;
        }
        let begun = Instant::now();
        for number in 1..=words.rounds {
            if !words.goes_on(name) {
                break;
            }
            round(&cluster, how, name, table)
                .await
                .map_err(|error| format!("{name}, number {number}: {error}"))?;
        }
        eprintln!("{name:<50} {:>6.1} s", begun.elapsed().as_secs_f64());
        eprint!("{}", table.lines_of(name));
    }
    Ok(())
}

async fn round(cluster: &Cluster, how: How, name: &str, table: &mut Table) -> Outcome<()> {
    cluster.wait_healthy(2 * LIMIT).await?;
    let old = cluster.wait_leader(LIMIT).await?;
    let admin = patroni_client(&cluster.nodes[old]).await?;
    admin
        .batch_execute(&format!("TRUNCATE {}, {}", ours::TABLE, libpq::TABLE))
        .await?;
    drop(admin);
    let nodes: Nodes = patroni_nodes(cluster);
    let apps = vec![
        App::Ours(Ours::start(&nodes, CLIENTS)?),
        App::Libpq(Libpq::start(&nodes)?),
    ];
    let loads = load(apps, 2, std::time::Duration::ZERO).await?;
    let replicas = cluster.nodes.iter().enumerate();
    let replicas = replicas.filter(|(index, _)| *index != old);
    let mut watch = Watch::start(replicas.map(|(_, node)| node.app_conninfo()));
    let mut notice = Notice::start(&loads, &cluster.nodes[old].name);
    let fault = Instant::now();
    match how {
        How::Switchover => drop(cluster.switchover(LIMIT).await?),
        How::Failover => cluster.kill_node(old).await?,
    }
    let promoted = watch
        .promoted(LIMIT)
        .await
        .ok_or("no other node was promoted")?;
    for load in &loads {
        load.all_write(LIMIT / 4).await;
    }
    for load in loads {
        let (who, rows) = (load.name(), format!("note_{}", load.name()));
        let report = load
            .stop(fault, async || {
                let mut clients = Vec::new();
                for node in &cluster.nodes {
                    clients.push(patroni_client(node).await);
                }
                bed::truth(clients, &rows).await
            })
            .await?;
        let promotion = Promotion::of(fault, promoted, notice.noticed(), &report);
        table.add(name, who, report, Some(promotion));
    }
    if how == How::Failover {
        cluster.start_node(old).await?;
    }
    Ok(())
}
