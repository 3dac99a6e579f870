//! One task per node that asks it what it is, on a connection of its own, each step with a deadline of ours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::history::History;
use super::lsn::Lsn;
use super::pool::{Node, Session, field, first_row};
use super::problem::Problem;
use super::shared::{Core, Report};
use super::topology::Sighting;

/// Asked once for each connection, and again while something is amiss. It has to work on any version.
const GREETING: &str = "SELECT current_setting('server_version_num'), current_setting('port'), \
    (SELECT count(*) FROM pg_roles WHERE rolname = 'pg_read_all_stats' AND pg_has_role(oid, 'USAGE'))";

// Replayed comes before the timeline: evaluated in this order, the position cannot be of a later timeline.
const PROBE: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), r.standby::int, \
    CASE WHEN r.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN r.standby THEN pg_last_wal_receive_lsn() END, \
    CASE WHEN r.standby THEN (SELECT received_tli FROM pg_stat_wal_receiver) END, \
    CASE WHEN NOT r.standby THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
    CASE WHEN r.standby THEN (SELECT greatest(c.timeline_id, y.min_recovery_end_timeline) \
        FROM pg_control_checkpoint() c, pg_control_recovery() y) END, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
    CASE WHEN r.standby THEN (SELECT count(*) FROM pg_stat_wal_receiver) END \
    FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) r";

/// The newest timeline of which a standby has anything. What it replays is not of a later one.
pub(crate) const CEILING: &str = "SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_waldir() \
    WHERE name ~ '^[0-9A-F]{24}$' OR name ~ '^[0-9A-F]{8}\\.history$'";

/// The oldest version with everything that is asked for.
const OLDEST: u32 = 120_000;

/// A line for each timeline: tens of thousands of failovers.
const HISTORY_LIMIT: usize = 1 << 20;

/// What an operator has to mend is not mended within a probe interval: asking more often only fills the server's log.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two questions while somebody waits for a primary.
const SEARCH: Duration = Duration::from_millis(25);

/// Kept after an answer, whatever happens, so that a flood of kicks does not become a flood of probes.
const REST: Duration = Duration::from_millis(10);

/// A connection of the probe, with what its server said of itself.
struct Asked {
    session: Session,
    port: u16,
    monitor: bool,
    greeted: Instant,
}

struct Prober<'a> {
    core: &'a Core,
    node: &'a Arc<Node>,
    asked: Option<Asked>,
    /// When the history of which timeline could not be read.
    no_history: Option<(u32, Instant)>,
}

pub(crate) async fn run(core: Arc<Core>, node: Arc<Node>) {
    let mut prober = Prober {
        core: &core,
        node: &node,
        asked: None,
        no_history: None,
    };
    loop {
        let report = match prober.ask().await {
            Ok((sighting, asked)) => Report::Saw(sighting, asked, prober.amiss()),
            Err(problem) => {
                prober.asked = None;
                Report::Failed(problem)
            }
        };
        let hopeless = matches!(report, Report::Failed(Some(_)));
        core.learn(&node, report);
        prober.read_history().await;
        let (rest, more) = pace(core.settings.probe_interval, core.is_waited_for(), hopeless);
        tokio::time::sleep(rest).await;
        let _ = timeout(more, node.kick.notified()).await;
    }
}

/// How long to rest after an answer, and how long to wait then, unless a kick comes earlier.
fn pace(interval: Duration, waited_for: bool, hopeless: bool) -> (Duration, Duration) {
    if hopeless {
        return (interval.max(PATIENCE), Duration::ZERO);
    }
    let interval = if waited_for {
        interval.min(SEARCH)
    } else {
        interval
    };
    let rest = interval.min(REST);
    (rest, interval - rest)
}

impl Prober<'_> {
    /// What the node is and when it was asked, or what is wrong with it where that can be told.
    async fn ask(&mut self) -> Result<(Sighting, Instant), Option<Problem>> {
        let closed = |asked: &Asked| asked.session.client.is_closed();
        if self.asked.as_ref().is_none_or(closed) {
            self.asked = None;
            let session = self.node.connect().await.map_err(|error| {
                tracing::debug!(node = &*self.node.name, %error, "probe cannot connect");
                Problem::of_connect(&error)
            })?;
            self.asked = Some(self.greet(session).await?);
        }
        let Some(mut asked) = self.asked.take() else {
            return Err(None);
        };
        if !asked.monitor && asked.greeted.elapsed() >= PATIENCE {
            asked = self.greet(asked.session).await?;
        }
        let sent = Instant::now();
        let answer = self.query(&asked.session, PROBE).await;
        let seen = answer.and_then(|answer| sighting(&answer, asked.port));
        let mut seen = seen.ok_or(None)?;
        if seen.in_recovery && seen.timeline.is_none() && asked.monitor {
            // It follows nobody, so nobody names its timeline. Asked after the position, for the same reason as above.
            let ceiling = self.query(&asked.session, CEILING).await;
            let ceiling = ceiling.as_deref().and_then(first_row);
            let ceiling = ceiling.and_then(|row| field(row, 0));
            seen.timeline = ceiling.filter(|_| ceiling == seen.timeline_floor);
        }
        self.asked = Some(asked);
        Ok((seen, sent))
    }

    async fn greet(&self, session: Session) -> Result<Asked, Option<Problem>> {
        let answer = self.query(&session, GREETING).await.ok_or(None)?;
        let row = first_row(&answer).ok_or(None)?;
        let version: u32 = field(row, 0).ok_or(None)?;
        if version < OLDEST {
            return Err(Some(Problem::TooOld { version }));
        }
        Ok(Asked {
            port: field(row, 1).ok_or(None)?,
            monitor: field::<u8>(row, 2).ok_or(None)? > 0,
            greeted: Instant::now(),
            session,
        })
    }

    async fn query(&self, session: &Session, sql: &str) -> Option<Vec<SimpleQueryMessage>> {
        let limit = self.core.settings.probe_timeout;
        match timeout(limit, session.client.simple_query(sql)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(node = &*self.node.name, %error, "probe failed");
                None
            }
            Err(_) => {
                tracing::debug!(node = &*self.node.name, ?limit, "probe timed out");
                None
            }
        }
    }

    /// What works, and less well than it could.
    fn amiss(&self) -> Option<Problem> {
        if let Some((timeline, _)) = self.no_history {
            return Some(Problem::NoHistory { timeline });
        }
        let asked = self.asked.as_ref()?;
        (!asked.monitor).then_some(Problem::NoMonitorGrant)
    }

    /// Reads the history of the newest timeline, if that is wanted and this node has it.
    async fn read_history(&mut self) {
        let Some(timeline) = self.core.wanted_history() else {
            self.no_history = None;
            return;
        };
        let Some(asked) = &self.asked else { return };
        // A file that cannot be read now may be readable later (a grant, a promotion that is not finished).
        let tried = |(_, at): (u32, Instant)| at.elapsed() < PATIENCE;
        let here = self.core.view.load().nodes[self.node.index].timeline == Some(timeline);
        if !here || self.no_history.is_some_and(tried) {
            return;
        }
        let sql = format!(
            "SELECT pg_read_file('pg_wal/{timeline:08X}.history', 0, {HISTORY_LIMIT}, true)"
        );
        let answer = self.query(&asked.session, &sql).await;
        let text = answer.as_deref().and_then(first_row);
        // Of one that is cut short, what it does not name would count as left.
        let whole = |text: &&str| text.len() < HISTORY_LIMIT;
        match text.and_then(|row| row.get(0)).filter(whole) {
            Some(text) => {
                self.no_history = None;
                let history = History::parse(timeline, text);
                self.core.learn(self.node, Report::History(history));
            }
            None => self.no_history = Some((timeline, Instant::now())),
        }
    }
}

fn sighting(answer: &[SimpleQueryMessage], port: u16) -> Option<Sighting> {
    let row = first_row(answer)?;
    let standby = field::<u8>(row, 1)? == 1;
    let own = row.get(5).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    Some(Sighting {
        // Signed in SQL, unsigned in the control file.
        system_id: field::<i64>(row, 0)? as u64,
        in_recovery: standby,
        timeline: if standby { field(row, 4) } else { own },
        timeline_floor: field(row, 6),
        // A standby that has not replayed anything yet has no position.
        lsn: field(row, 2).unwrap_or(Lsn(0)),
        received: field(row, 3),
        receiving: field::<u8>(row, 8).unwrap_or(0) > 0,
        started: field(row, 7)?,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_more_frequent_while_somebody_waits_and_never_a_flood() {
        let ms = Duration::from_millis;
        for (interval, waited_for, hopeless, rest, more) in [
            (100, false, false, 10, 90),
            (100, true, false, 10, 15),
            (5, true, false, 5, 0),
            (300_000, true, false, 10, 15),
            // Only an operator can mend it.
            (100, true, true, 1000, 0),
        ] {
            assert_eq!(
                pace(ms(interval), waited_for, hopeless),
                (ms(rest), ms(more)),
                "{interval} {waited_for} {hopeless}"
            );
        }
    }
}
