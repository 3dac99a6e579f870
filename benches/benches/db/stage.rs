//! Contenders under load on one bed, side by side, while something is broken.

use std::time::{Duration, Instant};

use ha_db::postgres::{Builder, Consistency};
use ha_testbed::postgres::{self, Postgres};

use crate::Outcome;
use crate::app::{App, Nodes, Sql};
use crate::bed::{Bed, LIMIT};
use crate::libpq::{self, Libpq};
use crate::ours::{self, Ours};
use crate::promoted::{Notice, Promotion, Watch};
use crate::table::Table;
use crate::workload::{Pace, Workload};

/// Load before anything breaks, and after all of it is whole again.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_millis(700);
/// How long something stays broken that nobody repairs.
pub(crate) const BROKEN: Duration = Duration::from_secs(3);

/// What differs between faults.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) servers: postgres::Builder,
    pub(crate) linked: bool,
    /// In which order clients are told of the nodes.
    pub(crate) order: [usize; 3],
    pub(crate) consistency: Consistency,
    /// How old what a read shows may be.
    pub(crate) budget: Duration,
    /// How long a read takes inside the server.
    pub(crate) read_ms: u64,
    pub(crate) ours: fn(Builder) -> Builder,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            servers: Postgres::primary().replicas(2),
            linked: false,
            order: [0, 1, 2],
            consistency: Consistency::ReadYourWrites,
            budget: Duration::ZERO,
            read_ms: 0,
            ours: |builder| builder,
        }
    }
}

impl Plan {
    pub(crate) fn linked() -> Self {
        Self {
            linked: true,
            ..Self::default()
        }
    }
}

/// Eight clients of ours and eight of libpq's, on one cluster.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) loads: Vec<Workload>,
    fault: Instant,
    promotion: Option<(Instant, Notice)>,
}

pub(crate) const CLIENTS: usize = 8;

impl Stage {
    pub(crate) async fn start(plan: Plan) -> Outcome<Self> {
        let bed = Bed::start(plan.servers.clone(), plan.linked).await?;
        let nodes = bed.nodes();
        let nodes: Nodes = plan.order.iter().map(|at| nodes[*at].clone()).collect();
        let ours = Ours::start_with(&nodes, CLIENTS, plan.ours)?
            .reading(plan.consistency)
            .with_sql(Sql::taking(ours::TABLE, plan.read_ms));
        let libpq = Libpq::start(&nodes)?.with_sql(Sql::taking(libpq::TABLE, plan.read_ms));
        let loads = load(vec![App::Ours(ours), App::Libpq(libpq)], 2, plan.budget).await?;
        Ok(Self {
            bed,
            loads,
            fault: Instant::now(),
            promotion: None,
        })
    }

    /// From now on it is broken.
    pub(crate) fn broke(&mut self) {
        self.fault = Instant::now();
    }

    /// Makes a replica the primary, as an operator would, and notes when the server was.
    pub(crate) async fn promote(&mut self, index: usize) -> Outcome<()> {
        let cluster = &self.bed.cluster;
        let mut watch = Watch::start([cluster.node(index)?.conninfo()]);
        let notice = Notice::start(&self.loads, &cluster.nodes[0].name);
        cluster.promote(index).await?;
        let promoted = watch.promoted(LIMIT).await;
        self.promotion = promoted.map(|at| (at, notice));
        Ok(())
    }

    pub(crate) async fn hold(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends the loads once they have gone on for a while, and adds what they saw.
    pub(crate) async fn finish(self, fault: &str, table: &mut Table) -> Outcome<()> {
        tokio::time::sleep(AFTER).await;
        let Self {
            bed,
            loads,
            fault: since,
            mut promotion,
        } = self;
        for load in loads {
            let (who, rows) = (load.name(), format!("note_{}", load.name()));
            let report = load.stop(since, async || bed.truth(&rows).await).await?;
            let promotion = promotion.as_mut().map(|(at, notice)| {
                // Ours is the first of the loads, and the only one that can notice.
                Promotion::of(since, *at, notice.noticed(), &report)
            });
            table.add(fault, who, report, promotion);
        }
        Ok(())
    }
}

/// Starts a load on each, and returns when all have written for a while.
pub(crate) async fn load(
    apps: Vec<App>,
    replicas: usize,
    budget: Duration,
) -> Outcome<Vec<Workload>> {
    let pace = Pace {
        clients: CLIENTS,
        rest: Duration::from_millis(25),
        budget,
    };
    let mut loads = Vec::new();
    for app in apps {
        app.ready(replicas).await?;
        loads.push(Workload::start(app, pace));
    }
    for load in &loads {
        if !load.all_write(LIMIT).await {
            return Err(format!("{} does not write on a healthy cluster", load.name()).into());
        }
    }
    tokio::time::sleep(BEFORE).await;
    Ok(loads)
}
