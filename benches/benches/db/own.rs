//! Reads of own writes where the token is minted in one process and the read done in another.
//!
//! This process is the app server that writes; it starts this program once more as the one that reads, and both talk over a
//! socket. After each acknowledged write come some reads in the other process at once, each as a request of its own that begins with
//! nothing but the token's text, and each has to show the write: that is a check. The control is the same without the token. Replicas show a commit some milliseconds late, as
//! those of another zone do; on loopback the words between the processes take as long as the replication.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{Causal, Consistency, Router, Token};
use ha_testbed::postgres::Postgres;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::app::Nodes;
use crate::bed::{Bed, LIMIT};
use crate::report::{OURS, Report};
use crate::{Outcome, Words, ours};

/// Few enough for the reads after a write to begin before the replicas show it: else the control would not be one.
const CLIENTS: usize = 4;
/// Reads after each write, and at the same time.
const READS: usize = 8;
/// Connections of each process to a node.
const POOL: usize = 32;
const DELAY: Duration = Duration::from_millis(5);
/// No run goes on for longer; what was checked until then is said.
const LONGEST: Duration = Duration::from_secs(15 * 60);
const READER: &str = "--reader";
const NO_TOKEN: &str = "-";

fn keys() -> Outcome<KeyRing> {
    Ok(KeyRing::from(Key::from_bytes(&[7; 32])?))
}

fn router(nodes: &Nodes) -> Outcome<Router> {
    Ok(ours::builder(nodes).pool_size(POOL).build()?)
}

/// This program as the app server that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    port: u16,
    nodes: Nodes,
}

impl Reader {
    pub(crate) fn of_arguments() -> Option<Self> {
        let mut args = std::env::args().skip_while(|arg| arg != READER).skip(1);
        let port = args.next()?.parse().ok()?;
        let nodes = args
            .enumerate()
            .map(|(at, conninfo)| (at.to_string(), conninfo));
        Some(Self {
            port,
            nodes: nodes.collect(),
        })
    }

    pub(crate) fn run(self) -> Outcome<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve())
    }

    /// Answers each line `NUMBER TOKEN CLIENT` with `NUMBER`, and `VERSION NODE` for each read, until the other process is gone.
    async fn serve(self) -> Outcome<()> {
        let router = router(&self.nodes)?;
        ours::ready(&router, self.nodes.len() - 1).await?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        let (from, mut to) = stream.into_split();
        let (answer, mut answers) = mpsc::channel::<String>(4 * CLIENTS);
        // Both end with this function.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(line) = answers.recv().await {
                if to.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let keys = Arc::new(keys()?);
        let mut lines = BufReader::new(from).lines();
        while let Some(line) = lines.next_line().await? {
            while tasks.try_join_next().is_some() {}
            let (router, keys, answer) = (router.clone(), Arc::clone(&keys), answer.clone());
            tasks.spawn(async move {
                let mut line = line.split(' ');
                let mut word = || line.next().unwrap_or_default();
                let (mut said, token, client) = (word().to_owned(), word(), word());
                let reads = (0..READS).map(|_| read(&router, &keys, token, client));
                for seen in futures_util::future::join_all(reads).await {
                    let (version, node) = seen.unwrap_or_else(|error| {
                        eprintln!("reader: {error}");
                        (-1, "-".to_owned())
                    });
                    said += &format!(" {version} {node}");
                }
                let _ = answer.send(said + "\n").await;
            });
        }
        Ok(())
    }
}

/// One request, which knows of its client what the words say.
async fn read(
    router: &Router,
    keys: &KeyRing,
    token: &str,
    client: &str,
) -> Outcome<(i64, String)> {
    let client: i32 = client.parse()?;
    let (causal, consistency) = if token == NO_TOKEN {
        (Causal::default(), Consistency::Eventual)
    } else {
        let token = Token::verify(token, keys)?;
        (Causal::new(Some(token)), Consistency::ReadYourWrites)
    };
    let conn = router.db(causal).read_with(consistency).await?;
    let sql = conn
        .prepare_cached("SELECT version FROM own WHERE client = $1")
        .await?;
    let rows = conn.query(&sql, &[&client]).await?;
    let version = rows.first().map_or(-1, |row| row.get(0));
    Ok((version, conn.node().to_owned()))
}

/// The other process, which ends with this.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What each read of a question has found, and on which node.
type Seen = Vec<(i64, String)>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Seen>>>>;

/// What this process asks the other.
#[derive(Debug)]
struct Asking {
    to: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
}

impl Asking {
    async fn ask(&self, number: u64, token: &str, client: usize) -> Outcome<Seen> {
        let (tell, told) = oneshot::channel();
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().insert(number, tell);
        let line = format!("{number} {token} {client}\n");
        self.to.lock().await.write_all(line.as_bytes()).await?;
        Ok(tokio::time::timeout(LIMIT, told).await??)
    }
}

#[derive(Debug, Default)]
struct Tally {
    checks: u64,
    stale: u64,
    failed: u64,
    on_replicas: u64,
}

pub(crate) async fn run(words: &Words, report: &mut Report) -> Outcome<()> {
    let bed = Bed::start(Postgres::primary().replicas(2), false).await?;
    let client = bed.cluster.nodes[0].client().await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE own (client int PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50); \
             INSERT INTO own SELECT generate_series(0, {}), 0",
            CLIENTS - 1
        ))
        .await?;
    bed.cluster.wait_caught_up(0, LIMIT).await?;
    for replica in [1, 2] {
        bed.cluster.delay_replay(replica, DELAY).await?;
    }
    let nodes = bed.nodes();
    let writer = router(&nodes)?;
    ours::ready(&writer, 2).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let _other = Other(
        Command::new(std::env::current_exe()?)
            .args([READER, &listener.local_addr()?.port().to_string()])
            .args(nodes.iter().map(|(_, conninfo)| conninfo))
            .stdin(Stdio::null())
            .spawn()?,
    );
    let (stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await??;
    stream.set_nodelay(true)?;
    let (from, to) = stream.into_split();
    let waiting = Waiting::default();
    let mut answers = JoinSet::new();
    answers.spawn(deliver(BufReader::new(from), Arc::clone(&waiting)));
    let asking = Arc::new(Asking {
        to: tokio::sync::Mutex::new(to),
        waiting,
    });
    let number = Arc::new(AtomicU64::new(0));
    for (who, with_token, checks) in [
        (OURS, true, words.checks),
        ("no_token", false, (words.checks / 20).max(1_000)),
    ] {
        eprintln!("own writes: {who}, {checks} checks");
        let begun = Instant::now();
        let tally = check(&writer, &asking, &number, with_token, checks).await?;
        let seconds = begun.elapsed().as_secs_f64();
        report.add("own_writes", "checks", who, tally.checks as f64);
        report.add(
            "own_writes",
            "per_second",
            who,
            tally.checks as f64 / seconds,
        );
        report.add("own_writes", "stale", who, tally.stale as f64);
        report.add("own_writes", "failed", who, tally.failed as f64);
        let percent = |part: u64| 100.0 * part as f64 / tally.checks.max(1) as f64;
        report.add("own_writes", "percent_stale", who, percent(tally.stale));
        report.add(
            "own_writes",
            "percent_on_replicas",
            who,
            percent(tally.on_replicas),
        );
    }
    Ok(())
}

async fn deliver(from: BufReader<tokio::net::tcp::OwnedReadHalf>, waiting: Waiting) {
    let mut lines = from.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut words = line.split(' ');
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        let pairs = std::iter::from_fn(|| {
            let version = words.next()?.parse::<i64>().ok()?;
            Some((version, words.next()?.to_owned()))
        });
        let seen: Seen = pairs.collect();
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = number.and_then(|number| waiting.remove(&number)) {
            let _ = tell.send(seen);
        }
    }
}

async fn check(
    writer: &Router,
    asking: &Arc<Asking>,
    number: &Arc<AtomicU64>,
    with_token: bool,
    checks: u64,
) -> Outcome<Tally> {
    let end = Instant::now() + LONGEST;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (writer, asking, number) = (writer.clone(), Arc::clone(asking), Arc::clone(number));
        clients.spawn(async move {
            let keys = keys()?;
            let mut tally = Tally::default();
            while tally.checks < checks.div_ceil(CLIENTS as u64) && Instant::now() < end {
                let (version, token) = write(&writer, client, with_token).await?;
                let token = token.map_or(NO_TOKEN.to_owned(), |token| token.sign(&keys));
                let number = number.fetch_add(1, Ordering::Relaxed);
                let seen = asking.ask(number, &token, client).await?;
                // A read without an answer is a check that failed.
                tally.failed += READS.saturating_sub(seen.len()) as u64;
                tally.checks += READS as u64;
                for (seen, node) in seen {
                    tally.failed += u64::from(seen < 0);
                    tally.stale += u64::from((0..version).contains(&seen));
                    // The names that the other process gives the nodes are their numbers; 0 is the primary.
                    tally.on_replicas += u64::from(seen >= 0 && node != "0");
                }
            }
            Outcome::Ok(tally)
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = clients.join_next().await {
        let tally = tally??;
        sum.checks += tally.checks;
        sum.stale += tally.stale;
        sum.failed += tally.failed;
        sum.on_replicas += tally.on_replicas;
    }
    Ok(sum)
}

/// One acknowledged write of a client's row, and the token that covers it where it is asked for.
async fn write(writer: &Router, client: usize, with_token: bool) -> Outcome<(i64, Option<Token>)> {
    let causal = Causal::default();
    let conn = writer.db(causal.clone()).write().await?;
    let sql = "UPDATE own SET version = version + 1 WHERE client = $1 RETURNING version";
    let sql = conn.prepare_cached(sql).await?;
    let rows = conn.query(&sql, &[&(client as i32)]).await?;
    let version = rows.first().ok_or("no such client")?.get(0);
    drop(conn);
    if !with_token {
        return Ok((version, None));
    }
    let token = causal.settle().await.ok_or("a write without a token")?;
    Ok((version, Some(token)))
}
