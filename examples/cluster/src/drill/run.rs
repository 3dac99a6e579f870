//! Breaks a running cluster, phase by phase, and watches it heal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ha_testbed::load::{Load, Run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::browser::Browser;
use super::ledger::Ledger;
use super::schedule::{Fault, Pace, Phase};
use super::user::{User, WRITE_PATIENCE};
use crate::cluster::{self, Cluster};

/// Users, each with one request under way at a time.
const USERS: usize = 8;
/// Steps of users per second, all together: one is one to two requests. Far below what two cores bear, so that what is
/// measured is the fault and not the load.
const STEPS_PER_SECOND: f64 = 80.0;
/// How often the state of the cluster is looked at while a phase heals.
const LOOK: Duration = Duration::from_millis(100);
/// How long the edges may take to stop sending to an app that says it is not ready.
const UNREADY_DEADLINE: Duration = Duration::from_secs(6);
/// An app that has answered nothing for this long, under this load, is out.
const UNREADY_QUIET: Duration = Duration::from_millis(600);

/// Something that kept a phase from being carried out at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cluster refused.
    #[error("cannot {action}")]
    Cluster {
        action: String,
        source: cluster::Error,
    },
    /// There is nothing that could be broken.
    #[error("there is no {0} to break")]
    Nobody(&'static str),
    /// A server could not be made to lag.
    #[error("cannot hold back a replica")]
    Postgres(#[source] tokio_postgres::Error),
    /// The primary could not be asked for the truth.
    #[error("cannot read the notes from the primary")]
    Truth(#[source] tokio_postgres::Error),
    /// There was no primary to ask.
    #[error("there is no primary to read the notes from")]
    NoPrimary,
    /// A server did not do what the drill needs.
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        source: std::io::Error,
    },
}

trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, cluster::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Cluster {
            action: action(),
            source,
        })
    }
}

/// A drill under way.
pub(crate) struct Drill<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pace: Pace,
    generation: Arc<AtomicU64>,
    started: Instant,
}

impl<'a> Drill<'a> {
    pub(crate) fn new(cluster: &'a Cluster, pace: Pace) -> Self {
        Self {
            cluster,
            ledger: Arc::default(),
            pace,
            generation: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Carries out every phase under load, and lets the users finish what they have begun.
    pub(crate) async fn run(&self, seed: u64, phases: &[Phase]) -> Result<(), Error> {
        let mut users = None;
        for (index, phase) in phases.iter().enumerate() {
            self.ledger.begin_phase(phase.fault.name(), Instant::now());
            let users = users.get_or_insert_with(|| self.users(seed));
            let number = format!("{}/{}", index + 1, phases.len());
            self.say(&format!("phase {number}: {}", phase.fault.name()));
            self.phase(phase).await?;
            let done = users.report();
            self.say(&format!(
                "  {} steps of users so far, {} with trouble",
                done.ok + done.failed,
                done.failed
            ));
        }
        if let Some(users) = users {
            self.say("the users finish what they have begun");
            users.stop().await;
        }
        self.ledger.end(Instant::now());
        Ok(())
    }

    fn users(&self, seed: u64) -> Run {
        let addresses = self.cluster.edges();
        let make = |number| {
            let browser = Browser::new(addresses.clone(), number);
            let (ledger, generation) = (Arc::clone(&self.ledger), Arc::clone(&self.generation));
            User::new(number, browser, ledger, seed, generation)
        };
        // A step is up to two operations, and a write may use up its whole patience.
        let deadline = WRITE_PATIENCE * 2 + Duration::from_secs(15);
        Load::clients(USERS)
            .rate(STEPS_PER_SECOND)
            .deadline(deadline)
            .start(make)
    }

    async fn phase(&self, phase: &Phase) -> Result<(), Error> {
        sleep(self.pace.warm_up + phase.delay).await;
        let hit = self.strike(phase).await?;
        let healed = self.heal(&hit).await;
        if let Some(healed) = healed {
            let after = healed.saturating_duration_since(hit.at).as_millis();
            self.say(&format!(
                "  users are served as before {after} ms after the fault"
            ));
        }
        self.ledger.current(|tally| tally.healed = healed);
        self.keep_up(&hit).await?;
        self.restore(&hit).await?;
        sleep(self.pace.cool_down).await;
        Ok(())
    }

    /// Users with an odd number become somebody new: sessions that are fresh when the fault strikes.
    async fn newcomers(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(300)).await;
    }

    async fn strike(&self, phase: &Phase) -> Result<Hit, Error> {
        let with = |prefix: &str| -> Vec<String> {
            self.cluster
                .names()
                .into_iter()
                .filter(|name| name.starts_with(prefix))
                .collect()
        };
        let one = |names: &[String], what| phase.victims(names, 1).pop().ok_or(Error::Nobody(what));
        let parts = match phase.fault {
            Fault::AppKilled | Fault::AppWrong => vec![one(&with("app-"), "app")?],
            Fault::TwoAppsKilled => phase.victims(&with("app-"), 2),
            Fault::EdgeKilled => vec![one(&with("edge-"), "edge")?],
            Fault::ReplicaKilled => vec![one(&self.cluster.replicas().await, "replica")?],
            Fault::PrimaryKilled | Fault::PrimaryFrozen => {
                vec![
                    self.cluster
                        .primary()
                        .await
                        .ok_or(Error::Nobody("primary"))?,
                ]
            }
            Fault::RedisMasterKilled => {
                vec![
                    self.cluster
                        .redis_master()
                        .await
                        .ok_or(Error::Nobody("Redis master"))?,
                ]
            }
        };
        let mut hit = Hit {
            fault: phase.fault,
            parts,
            at: Instant::now(),
            last: Instant::now(),
        };
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
            Fault::RedisMasterKilled => {
                let behind: Vec<_> = with("redis-")
                    .into_iter()
                    .filter(|name| *name != names)
                    .collect();
                self.say(&format!(
                    "  what {names} writes from now on reaches no replica"
                ));
                self.cut_replication(&names, &behind).await?;
                self.newcomers().await;
                sleep(Duration::from_millis(400)).await;
                hit.at = Instant::now();
                self.say(&format!("  {names} is killed"));
                self.kill(&names).await?;
                for name in &behind {
                    self.start(name).await?;
                }
            }
            Fault::PrimaryFrozen => {
                self.newcomers().await;
                hit.at = Instant::now();
                self.say(&format!("  {names} is frozen"));
                self.cluster
                    .stop(&names)
                    .await
                    .doing(|| format!("freeze {names}"))?;
            }
            _ => {
                self.newcomers().await;
                hit.at = Instant::now();
                let verb = if hit.parts.len() > 1 { "are" } else { "is" };
                self.say(&format!("  {names} {verb} killed"));
                for name in &hit.parts {
                    self.kill(name).await?;
                }
            }
        }
        hit.last = Instant::now();
        self.ledger.current(|tally| tally.fault = Some(hit.at));
        Ok(hit)
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

    /// Waits until the users are served as before although nothing was repaired; when that was.
    async fn heal(&self, hit: &Hit) -> Option<Instant> {
        let mut failed_over = None;
        loop {
            if failed_over.is_none() {
                failed_over = self.failed_over(hit).await;
            }
            let now = Instant::now();
            let disturbed = self.ledger.last_disturbed(now).filter(|at| *at > hit.at);
            let healed = failed_over.map(|at| disturbed.unwrap_or(hit.at).max(at));
            if let Some(healed) = healed.filter(|healed| {
                now.saturating_duration_since((*healed).max(hit.last)) >= self.pace.quiet
            }) {
                return Some(healed);
            }
            if now - hit.last > self.pace.heal_deadline {
                self.blame(match failed_over {
                    None => format!("nobody took over within {:?}", self.pace.heal_deadline),
                    Some(_) => format!(
                        "users were still disturbed {:?} after the fault",
                        self.pace.heal_deadline
                    ),
                });
                return None;
            }
            sleep(LOOK).await;
        }
    }

    /// Since when somebody else has the role of what was hit; where there is no such role, since it was hit.
    async fn failed_over(&self, hit: &Hit) -> Option<Instant> {
        let holder = match hit.fault {
            Fault::PrimaryKilled | Fault::PrimaryFrozen => self.cluster.primary().await,
            Fault::RedisMasterKilled => self.cluster.redis_master().await,
            _ => return Some(hit.at),
        };
        holder
            .filter(|holder| !hit.parts.contains(holder))
            .map(|_| Instant::now())
    }

    /// Keeps the fault up for a while, with what makes it worse.
    async fn keep_up(&self, hit: &Hit) -> Result<(), Error> {
        if hit.fault == Fault::ReplicaKilled {
            let replicas = self.cluster.replicas().await;
            for name in replicas.iter().filter(|name| !hit.parts.contains(name)) {
                self.say(&format!("  {name} replays late"));
                self.replay_late(name).await?;
            }
        }
        sleep(self.pace.hold.saturating_sub(hit.last.elapsed())).await;
        Ok(())
    }

    async fn restore(&self, hit: &Hit) -> Result<(), Error> {
        self.ledger
            .current(|tally| tally.restored = Some(Instant::now()));
        let names = hit.parts.join(" and ");
        for name in &hit.parts {
            match hit.fault {
                Fault::AppWrong => self.fault(name, cluster::Fault::None).await?,
                _ => self.start(name).await?,
            }
        }
        let verb = if hit.parts.len() > 1 { "are" } else { "is" };
        self.say(&format!("  {names} {verb} back"));
        let began = Instant::now();
        match self.cluster.healed(self.pace.whole_deadline).await {
            Ok(()) => {
                self.say(&format!(
                    "  the cluster is whole {} ms after",
                    began.elapsed().as_millis()
                ));
            }
            Err(error) => self.blame(crate::chain(&error)),
        }
        Ok(())
    }

    /// Holds back a replica's replay for a moment, again and again: a token must hold a read back as well, or send it
    /// elsewhere.
    async fn replay_late(&self, name: &str) -> Result<(), Error> {
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
            self.cluster
                .stop(name)
                .await
                .doing(|| format!("freeze {name}"))?;
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

    async fn start(&self, name: &str) -> Result<(), Error> {
        self.cluster
            .start(name)
            .await
            .doing(|| format!("start {name}"))
    }

    async fn fault(&self, name: &str, fault: cluster::Fault) -> Result<(), Error> {
        self.cluster
            .fault(name, fault)
            .await
            .doing(|| format!("make {name} misbehave"))
    }

    fn blame(&self, what: String) {
        self.say(&format!("  BROKEN: {what}"));
        self.ledger.current(|tally| tally.faults.push(what));
    }

    pub(crate) fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f32());
    }

    /// What the primary holds: the text of every note.
    pub(crate) async fn truth(&self) -> Result<Vec<String>, Error> {
        let primary = self.cluster.primary().await.ok_or(Error::NoPrimary)?;
        let conninfo = self.cluster.postgres(&primary).ok_or(Error::NoPrimary)?;
        let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls)
            .await
            .map_err(Error::Truth)?;
        let connection = tokio::spawn(connection);
        let rows = client
            .query("select text from notes", &[])
            .await
            .map_err(Error::Truth)?;
        connection.abort();
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// A fault that has struck.
#[derive(Debug)]
struct Hit {
    fault: Fault,
    parts: Vec<String>,
    at: Instant,
    /// When the last blow fell: an app is unready first and wrong later.
    last: Instant,
}
