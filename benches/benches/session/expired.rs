//! What deleting expired rows does to the requests beside it.
//!
//! Ours: the same load in turn on a table without expired rows, and on one with a million of them that two cleaners on two app servers
//! delete at their default pace; at the end all the rest in one `DELETE`, on the same table. tower-sessions with its sqlx store: the
//! same load without expired rows, and while its `delete_expired` deletes a million. The load is far below what the machine can do, so
//! that what is measured is how requests are held up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use ha_session::Pace;
use ha_testbed::postgres::{Client, Cluster, Postgres};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_sessions_014::session_store::ExpiredDeletion as _;
use tower_sessions_sqlx_store::PostgresStore as TheirPostgres;

use crate::app::{self, Browser};
use crate::{LIMIT, Outcome, Words, quantile, stores};

const CLIENTS: usize = 8;
/// Between two requests of a client.
const REST: Duration = Duration::from_millis(4);
/// How long a `DELETE` of everything may take.
const LONGEST: Duration = Duration::from_secs(180);

/// How much of it is measured.
#[derive(Debug, Clone, Copy)]
struct Amount {
    rows: u64,
    rounds: usize,
    round: Duration,
    their_rounds: usize,
}

#[derive(Debug, Default)]
struct Samples {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
}

#[derive(Debug)]
struct Line {
    who: &'static str,
    case: String,
    samples: Samples,
    deleted: u64,
    /// Which line is the same load with nothing expired.
    beside: usize,
}

/// Each load, the one that it is compared with before it.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    lines: Vec<Line>,
}

pub(crate) async fn run(words: &Words) -> Outcome<Expired> {
    let amount = if words.quick {
        Amount {
            rows: 50_000,
            rounds: 2,
            round: Duration::from_secs(1),
            their_rounds: 1,
        }
    } else {
        Amount {
            rows: 1_000_000,
            rounds: 6,
            round: Duration::from_secs(5),
            their_rounds: 2,
        }
    };
    let cluster = Postgres::primary().start().await?;
    let mut expired = Expired::default();
    ours(&cluster, amount, &mut expired).await?;
    theirs(&cluster, amount, &mut expired).await?;
    Ok(expired)
}

async fn ours(cluster: &Cluster, amount: Amount, expired: &mut Expired) -> Outcome<()> {
    let bare = our_store(cluster, "ours_bare", true).await?;
    let full = our_store(cluster, "ours_full", true).await?;
    let elsewhere = our_store(cluster, "ours_full", false).await?;
    let admin = connect(cluster, "ours_full").await?;
    let fill = format!(
        "insert into ha_session (key, format, version, state, idle_until, absolute_until, data) \
         select sha256(('expired' || n)::bytea), 1, n, 0, now() - interval '2 hours' - n * interval '1 ms', \
         now() + interval '7 days', jsonb_build_object('user', jsonb_build_array(n, encode(sha256(n::text::bytea), 'base64'))) \
         from generate_series(1, {}) n",
        amount.rows
    );
    refill(&admin, &fill, "ha_session").await?;
    let mut on_bare = clients(&app::ours(bare, None)?).await?;
    let mut on_full = clients(&app::ours(full.clone(), None)?).await?;
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    let mut deleted = 0;
    for _ in 0..amount.rounds {
        alone.load(&mut on_bare, rest(amount.round)).await?;
        let cleaners = [
            full.clean(Pace::default()),
            elsewhere.clean(Pace::default()),
        ];
        beside.load(&mut on_full, rest(amount.round)).await?;
        deleted += cleaners.iter().map(|one| one.deleted()).sum::<u64>();
    }
    if deleted == 0 {
        return Err("two cleaners have deleted nothing".into());
    }
    let at = expired.lines.len();
    let millions = millions(amount.rows);
    expired.add("ours", "nothing expired", alone, 0, at);
    let case = format!("{millions} expired, two cleaners");
    expired.add("ours", &case, beside, deleted, at);

    let mut naive = Samples::default();
    let sql = "delete from ha_session where idle_until < now()";
    let delete = async { Outcome::Ok(admin.execute(sql, &[]).await?) };
    let deleted = naive.load(&mut on_full, delete).await?;
    expired.add("ours", "the rest in one DELETE", naive, deleted, at);
    Ok(())
}

async fn our_store(
    cluster: &Cluster,
    database: &str,
    create: bool,
) -> Outcome<ha_session::PostgresStore> {
    if create {
        create_database(cluster, database).await?;
    }
    let node = &cluster.nodes[0];
    stores::postgres(&[(node.name.clone(), conninfo(cluster, database))]).await
}

async fn theirs(cluster: &Cluster, amount: Amount, expired: &mut Expired) -> Outcome<()> {
    let bare = their_store(cluster, "their_bare").await?;
    let full = their_store(cluster, "their_full").await?;
    let admin = connect(cluster, "their_full").await?;
    let fill = format!(
        "insert into tower_sessions.session (id, data, expiry_date) \
         select 'expired' || n, sha256(n::text::bytea) || sha256(('x' || n)::bytea), \
         now() - interval '2 hours' - n * interval '1 ms' from generate_series(1, {}) n",
        amount.rows
    );
    let mut on_bare = clients(&app::theirs(bare, false)).await?;
    let mut on_full = clients(&app::theirs(full.clone(), false)).await?;
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    for _ in 0..amount.their_rounds {
        refill(&admin, &fill, "tower_sessions.session").await?;
        alone.load(&mut on_bare, rest(amount.round)).await?;
        let delete = async { Outcome::Ok(full.delete_expired().await?) };
        beside.load(&mut on_full, delete).await?;
    }
    let left: i64 = admin
        .query_one(
            "select count(*) from tower_sessions.session where id like 'expired%'",
            &[],
        )
        .await?
        .get(0);
    if left > 0 {
        return Err(format!("delete_expired has left {left} rows").into());
    }
    let at = expired.lines.len();
    let deleted = amount.rows * amount.their_rounds as u64;
    expired.add("tower-sessions, sqlx", "nothing expired", alone, 0, at);
    let case = format!("{} expired, delete_expired", millions(amount.rows));
    expired.add("tower-sessions, sqlx", &case, beside, deleted, at);
    Ok(())
}

async fn their_store(cluster: &Cluster, database: &str) -> Outcome<TheirPostgres> {
    create_database(cluster, database).await?;
    let port = cluster.nodes[0].port;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let store = TheirPostgres::new(stores::pool(&url).await?);
    store.migrate().await?;
    Ok(store)
}

async fn create_database(cluster: &Cluster, name: &str) -> Outcome<()> {
    let client = cluster.nodes[0].client().await?;
    let create = format!("create database {name}");
    Ok(client.batch_execute(&create).await?)
}

fn conninfo(cluster: &Cluster, database: &str) -> String {
    let port = cluster.nodes[0].port;
    format!("host=127.0.0.1 port={port} user=postgres dbname={database} connect_timeout=5")
}

async fn connect(cluster: &Cluster, database: &str) -> Outcome<Client> {
    let node = &cluster.nodes[0];
    Ok(Client::connect(&node.name, &conninfo(cluster, database)).await?)
}

/// Fills the table, and leaves nothing of it to be done under the load.
async fn refill(admin: &Client, fill: &str, table: &str) -> Outcome<()> {
    for statement in [fill, &format!("vacuum analyze {table}"), "checkpoint"] {
        let run = admin.batch_execute(statement);
        tokio::time::timeout(LONGEST, run).await??;
    }
    Ok(())
}

async fn clients(app: &Router) -> Outcome<Vec<Browser>> {
    let mut browsers = Vec::new();
    for _ in 0..CLIENTS {
        browsers.push(Browser::filled(app).await?);
    }
    Ok(browsers)
}

async fn rest(time: Duration) -> Outcome<()> {
    tokio::time::sleep(time).await;
    Ok(())
}

fn millions(rows: u64) -> String {
    match rows {
        1_000_000 => "a million".to_owned(),
        rows => format!("{rows}"),
    }
}

impl Samples {
    /// Reads and writes in turn by all browsers, until something is done.
    async fn load<T>(
        &mut self,
        browsers: &mut Vec<Browser>,
        until: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for browser in browsers.drain(..) {
            tasks.spawn(client(browser, Arc::clone(&over)));
        }
        let done = tokio::time::timeout(LONGEST, until).await;
        over.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                let (browser, samples) = ended??;
                browsers.push(browser);
                self.reads.extend(samples.reads);
                self.writes.extend(samples.writes);
            }
            Outcome::Ok(())
        };
        tokio::time::timeout(LIMIT, all).await??;
        done?
    }
}

async fn client(mut browser: Browser, over: Arc<AtomicBool>) -> Outcome<(Browser, Samples)> {
    let mut samples = Samples::default();
    while !over.load(Ordering::Relaxed) {
        for (route, took) in [("read", &mut samples.reads), ("write", &mut samples.writes)] {
            tokio::time::sleep(REST).await;
            let begun = Instant::now();
            browser.get(route).await?;
            took.push(begun.elapsed());
        }
    }
    Ok((browser, samples))
}

/// By how much the slowest hundredth is slower.
fn ratio(of: &[Duration], to: &[Duration]) -> Option<f64> {
    let p99 = |all: &[Duration]| quantile(all, 0.99).map(|p99| p99.as_secs_f64());
    Some(p99(of)? / p99(to)?)
}

impl Expired {
    fn add(
        &mut self,
        who: &'static str,
        case: &str,
        samples: Samples,
        deleted: u64,
        beside: usize,
    ) {
        let case = case.to_owned();
        let line = Line {
            who,
            case,
            samples,
            deleted,
            beside,
        };
        self.lines.push(line);
        let cells = self.lines.last().map(|line| self.cells(line));
        eprintln!("{}", cells.unwrap_or_default().join("  "));
    }

    fn ratios(&self, line: &Line) -> [Option<f64>; 2] {
        let Some(beside) = self.lines.get(line.beside) else {
            return [None; 2];
        };
        let (of, to) = (&line.samples, &beside.samples);
        [ratio(&of.reads, &to.reads), ratio(&of.writes, &to.writes)]
    }

    fn cells(&self, line: &Line) -> [String; 11] {
        let us = |all: &[Duration], q| {
            let time = quantile(all, q).unwrap_or_default();
            format!("{:.0}", time.as_secs_f64() * 1e6)
        };
        let [reads, writes] = self.ratios(line).map(|ratio| match ratio {
            Some(ratio) => format!("{ratio:.2}"),
            None => "-".to_owned(),
        });
        let Samples {
            reads: read,
            writes: wrote,
        } = &line.samples;
        [
            line.who.to_owned(),
            line.case.clone(),
            line.deleted.to_string(),
            read.len().to_string(),
            us(read, 0.5),
            us(read, 0.99),
            reads,
            wrote.len().to_string(),
            us(wrote, 0.5),
            us(wrote, 0.99),
            writes,
        ]
    }

    pub(crate) fn table(&self) -> String {
        let head = [
            "who", "rows", "deleted", "reads", "p50 µs", "p99 µs", "× p99", "writes", "p50 µs",
            "p99 µs", "× p99",
        ];
        let lines: Vec<_> = self.lines.iter().map(|line| self.cells(line)).collect();
        ha_benches::markdown::table(&head, &lines, 2)
    }

    pub(crate) fn rows(&self) -> Vec<Value> {
        let ns = |all: &[Duration], q| {
            quantile(all, q).map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        };
        let row = |line: &Line| {
            let [reads, writes] = self.ratios(line);
            let samples = &line.samples;
            json!({
                "bench": "session",
                "part": "expired",
                "case": line.case,
                "who": line.who,
                "deleted": line.deleted,
                "reads": samples.reads.len(),
                "read_p50_ns": ns(&samples.reads, 0.5),
                "read_p99_ns": ns(&samples.reads, 0.99),
                "read_p99_ratio": reads,
                "writes": samples.writes.len(),
                "write_p50_ns": ns(&samples.writes, 0.5),
                "write_p99_ns": ns(&samples.writes, 0.99),
                "write_p99_ratio": writes,
            })
        };
        self.lines.iter().map(row).collect()
    }
}
