//! Clients that write and at once read what they wrote, on a healthy cluster: what is stale, who serves, how long it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_testbed::load::Histogram;
use ha_testbed::postgres::Postgres;
use tokio::task::JoinSet;

use crate::app::{App, Told};
use crate::bare::Bare;
use crate::bed::Bed;
use crate::gitlab::Gitlab;
use crate::libpq::Libpq;
use crate::ours::Ours;
use crate::report::Report;
use crate::{Outcome, Words};

const CLIENTS: usize = 8;
/// Reads after each write.
const READS: usize = 4;

#[derive(Debug, Default)]
struct Tally {
    writes: Histogram,
    first: Histogram,
    later: Histogram,
    reads: u64,
    stale_first: u64,
    stale: u64,
    known: u64,
    on_replicas: u64,
    failed: u64,
}

impl Tally {
    fn merge(&mut self, other: &Self) {
        self.writes.merge(&other.writes);
        self.first.merge(&other.first);
        self.later.merge(&other.later);
        self.reads += other.reads;
        self.stale_first += other.stale_first;
        self.stale += other.stale;
        self.known += other.known;
        self.on_replicas += other.on_replicas;
        self.failed += other.failed;
    }
}

pub(crate) async fn run(words: &Words, report: &mut Report) -> Outcome<()> {
    let time = Duration::from_secs(if words.quick { 2 } else { 10 });
    for index in 0..4 {
        // A cluster for each, so that none reads over what another has left.
        let bed = Bed::start(Postgres::primary().replicas(2), false).await?;
        let nodes = bed.nodes();
        let app = match index {
            0 => App::Ours(Ours::start(&nodes, CLIENTS)?),
            1 => App::Gitlab(Gitlab::start(&nodes, CLIENTS)?),
            2 => App::Libpq(Libpq::start(&nodes)?),
            _ => App::Bare(Bare::start(&nodes)?),
        };
        app.ready(2).await?;
        let name = app.name();
        eprintln!("reads: {name}");
        let tally = drive(Arc::new(app), time).await;
        add(report, name, &tally, time);
    }
    Ok(())
}

async fn drive(app: Arc<App>, time: Duration) -> Tally {
    let mut clients = JoinSet::new();
    let end = Instant::now() + time;
    for client in 0..CLIENTS {
        let app = Arc::clone(&app);
        clients.spawn(async move {
            let mut tally = Tally::default();
            // Keys of one client only; a new one before what it lists grows long.
            let mut key = 0;
            while Instant::now() < end {
                one(&app, client, key, &mut tally).await;
                key += 1;
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = clients.join_next().await {
        if let Ok(tally) = tally {
            sum.merge(&tally);
        }
    }
    sum
}

async fn one(app: &App, client: usize, key: i64, tally: &mut Tally) {
    let begun = Instant::now();
    let (told, _) = app.write(client, key).await;
    if told != Told::Acknowledged {
        tally.failed += 1;
        return;
    }
    tally.writes.record(begun.elapsed());
    for number in 0..READS {
        let begun = Instant::now();
        let (Some(seen), _) = app.read(client).await else {
            tally.failed += 1;
            continue;
        };
        let took = begun.elapsed();
        let stale = u64::from(!seen.keys.contains(&key));
        tally.reads += 1;
        tally.stale += stale;
        if number == 0 {
            tally.first.record(took);
            tally.stale_first += stale;
        } else {
            tally.later.record(took);
        }
        if let Some(replica) = seen.on_replica {
            tally.known += 1;
            tally.on_replicas += u64::from(replica);
        }
    }
}

fn add(report: &mut Report, who: &'static str, tally: &Tally, time: Duration) {
    let ns = |histogram: &Histogram, q| {
        let value = histogram.quantile(q).unwrap_or_default();
        value.as_nanos() as f64
    };
    for (case, histogram) in [
        ("write", &tally.writes),
        ("read_after_write", &tally.first),
        ("read_later", &tally.later),
    ] {
        report.add(&format!("{case}_p50"), "ns", who, ns(histogram, 0.5));
        report.add(&format!("{case}_p99"), "ns", who, ns(histogram, 0.99));
    }
    let percent = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
    let per_second = tally.reads as f64 / time.as_secs_f64();
    report.add("reads", "per_second", who, per_second);
    report.add("reads_failed", "count", who, tally.failed as f64);
    report.add("reads_stale", "count", who, tally.stale as f64);
    let first = tally.first.count();
    report.add(
        "reads_after_write_stale",
        "percent",
        who,
        percent(tally.stale_first, first),
    );
    if tally.known > 0 {
        let share = percent(tally.on_replicas, tally.known);
        report.add("reads_on_replicas", "percent", who, share);
    }
}
