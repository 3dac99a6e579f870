//! What is done to a cluster in a phase.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::error::{Doing as _, Error};
use super::run::{Drill, LOOK};
use super::schedule::{Fault, Phase};
use crate::cluster;

/// How long the edges may take to stop sending to an app that says it is not ready.
const UNREADY_DEADLINE: Duration = Duration::from_secs(6);
/// An app that has answered nothing for this long, under this load, is out.
const UNREADY_QUIET: Duration = Duration::from_millis(600);

/// A fault that has struck.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) fault: Fault,
    pub(super) parts: Vec<String>,
    /// When the fault counts as struck.
    pub(super) at: Instant,
    /// When the last blow fell: an app is unready first and wrong later.
    pub(super) last: Instant,
}

impl Hit {
    fn on(fault: Fault, parts: Vec<String>) -> Self {
        let now = Instant::now();
        Self {
            fault,
            parts,
            at: now,
            last: now,
        }
    }

    /// What fits the number of parts.
    pub(super) fn verb(&self) -> &'static str {
        if self.parts.len() > 1 { "are" } else { "is" }
    }
}

impl Drill<'_> {
    /// Breaks what the phase is about.
    pub(super) async fn strike(&self, phase: &Phase) -> Result<Hit, Error> {
        let mut hit = Hit::on(phase.fault, self.victims(phase).await?);
        let names = hit.parts.join(" and ");
        match phase.fault {
            Fault::AppWrong => {
                self.newcomers().await;
                hit.at = Instant::now();
                self.say(&format!("  {names} says that it is not ready"));
                self.unready(&names).await?;
                self.say(&format!("  {names} answers wrongly"));
                self.fault(&names, cluster::Fault::Wrong).await?;
            }
            Fault::RedisMasterKilled => hit.at = self.kill_unreplicated(&names).await?,
            Fault::PrimaryFrozen => {
                self.newcomers().await;
                hit.at = Instant::now();
                self.say(&format!("  {names} is frozen"));
                self.freeze(&names).await?;
            }
            _ => {
                self.newcomers().await;
                hit.at = Instant::now();
                self.say(&format!("  {names} {} killed", hit.verb()));
                for name in &hit.parts {
                    self.kill(name).await?;
                }
            }
        }
        hit.last = Instant::now();
        self.ledger.current(|tally| tally.fault = Some(hit.at));
        Ok(hit)
    }

    /// Whom it hits: drawn by the phase, or whoever has the role.
    async fn victims(&self, phase: &Phase) -> Result<Vec<String>, Error> {
        let (candidates, count, what) = match phase.fault {
            Fault::AppKilled | Fault::AppWrong => (self.named("app-"), 1, "app"),
            Fault::TwoAppsKilled => (self.named("app-"), 2, "app"),
            Fault::EdgeKilled => (self.named("edge-"), 1, "edge"),
            Fault::ReplicaKilled => (self.cluster.replicas().await, 1, "replica"),
            Fault::PrimaryKilled | Fault::PrimaryFrozen => {
                let primary = self.cluster.primary().await;
                (primary.into_iter().collect(), 1, "primary")
            }
            Fault::RedisMasterKilled => {
                let master = self.cluster.redis_master().await;
                (master.into_iter().collect(), 1, "Redis master")
            }
        };
        let victims = phase.victims(&candidates, count);
        if victims.is_empty() {
            return Err(Error::Nobody(what));
        }
        Ok(victims)
    }

    fn named(&self, prefix: &str) -> Vec<String> {
        let mut names = self.cluster.names();
        names.retain(|name| name.starts_with(prefix));
        names
    }

    /// Kills the Redis master with its last writes on no replica; when that was.
    async fn kill_unreplicated(&self, master: &str) -> Result<Instant, Error> {
        let mut behind = self.named("redis-");
        behind.retain(|name| name != master);
        self.say(&format!(
            "  what {master} writes from now on reaches no replica"
        ));
        self.cut_replication(master, &behind).await?;
        self.newcomers().await;
        sleep(Duration::from_millis(400)).await;
        let at = Instant::now();
        self.say(&format!("  {master} is killed"));
        self.kill(master).await?;
        for name in &behind {
            self.start(name).await?;
        }
        Ok(at)
    }

    /// Users with an odd number become somebody new: sessions that are fresh when the fault strikes.
    async fn newcomers(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(300)).await;
    }

    /// Readiness is about the near future: an app that sees its end coming says so first. From then on it must get no
    /// more requests; only after that, or when the edges had time enough, do its answers go wrong.
    async fn unready(&self, app: &str) -> Result<(), Error> {
        self.fault(app, cluster::Fault::Unready).await?;
        let told = Instant::now();
        loop {
            let now = Instant::now();
            let last = self
                .ledger
                .last_served_by(app)
                .map_or(told, |last| last.max(told));
            if now - last >= UNREADY_QUIET {
                self.say(&format!(
                    "  {app} gets no requests, {} ms after",
                    (last - told).as_millis()
                ));
                return Ok(());
            }
            if now - told >= UNREADY_DEADLINE {
                self.blame(format!("{app} was still sent requests {UNREADY_DEADLINE:?} after it had said it was not ready"));
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Holds back a replica's replay for a moment, again and again: a token must hold a read back as well, or send it
    /// elsewhere.
    pub(super) async fn replay_late(&self, name: &str) -> Result<(), Error> {
        let conninfo = self
            .cluster
            .postgres(name)
            .ok_or(Error::Nobody("replica"))?;
        let mut config: tokio_postgres::Config = conninfo.parse().map_err(Error::Postgres)?;
        // Holding back a replay is not for the app's user.
        config.user("postgres");
        let (client, connection) = config
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(Error::Postgres)?;
        let connection = tokio::spawn(connection);
        let mut held = Ok(());
        for _ in 0..4 {
            held = held.and(client.batch_execute("select pg_wal_replay_pause()").await);
            sleep(Duration::from_millis(300)).await;
            held = held.and(client.batch_execute("select pg_wal_replay_resume()").await);
            sleep(Duration::from_millis(200)).await;
        }
        connection.abort();
        held.map_err(Error::Postgres)
    }

    /// Makes sure that what the master acknowledges from now on is on no replica: stopped ones cannot come back for it.
    async fn cut_replication(&self, master: &str, replicas: &[String]) -> Result<(), Error> {
        for name in replicas {
            self.freeze(name).await?;
        }
        let address = self
            .cluster
            .redis(master)
            .ok_or(Error::Nobody("Redis master"))?;
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"CLIENT KILL TYPE replica\r\n").await?;
            let mut answer = [0; 64];
            let read = stream.read(&mut answer).await?;
            if answer[..read].starts_with(b":") {
                return Ok(());
            }
            let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
            Err(std::io::Error::other(answer))
        };
        let late = |_| Err(std::io::ErrorKind::TimedOut.into());
        let asked = timeout(Duration::from_secs(2), asked)
            .await
            .unwrap_or_else(late);
        asked.map_err(|source| Error::Io {
            action: "cut Redis' replication",
            source,
        })
    }

    async fn kill(&self, name: &str) -> Result<(), Error> {
        self.cluster
            .kill(name)
            .await
            .doing(|| format!("kill {name}"))
    }

    async fn freeze(&self, name: &str) -> Result<(), Error> {
        self.cluster
            .stop(name)
            .await
            .doing(|| format!("freeze {name}"))
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), Error> {
        self.cluster
            .start(name)
            .await
            .doing(|| format!("start {name}"))
    }

    pub(super) async fn fault(&self, name: &str, fault: cluster::Fault) -> Result<(), Error> {
        self.cluster
            .fault(name, fault)
            .await
            .doing(|| format!("make {name} misbehave"))
    }
}
