//! Breaks a running cluster, phase by phase, and watches it heal.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ha_testbed::load::{Load, Run};
use tokio::time::sleep;

use super::browser::Browser;
use super::error::Error;
use super::ledger::Ledger;
use super::schedule::{Fault, Pace, Phase};
use super::strike::Hit;
use super::user::{User, WRITE_PATIENCE};
use crate::cluster::{self, Cluster};

/// Users, each with one request under way at a time.
const USERS: usize = 8;
/// Steps of users per second, all together: one is one to two requests. Far below what two cores bear, so that what is
/// measured is the fault and not the load.
const STEPS_PER_SECOND: f64 = 80.0;
/// How often the state of the cluster is looked at while a phase heals.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A drill under way.
pub(crate) struct Drill<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pace: Pace,
    pub(super) generation: Arc<AtomicU64>,
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
        self.say(&format!("  {names} {} back", hit.verb()));
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

    pub(super) fn blame(&self, what: String) {
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
