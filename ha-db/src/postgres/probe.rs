//! One task per node that asks it what it is, on a connection of its own, each step with a deadline of ours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::history::History;
use super::lsn::Lsn;
use super::pool::{Node, Session, field, first_row};
use super::router::Core;
use super::topology::Sighting;

// Replayed comes before the timeline: evaluated in this order, the position cannot be of a later timeline.
const PROBE: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), r.standby::int, \
    CASE WHEN r.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN r.standby THEN pg_last_wal_receive_lsn() END, \
    CASE WHEN r.standby THEN (SELECT received_tli FROM pg_stat_wal_receiver) END, \
    CASE WHEN NOT r.standby THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
    CASE WHEN r.standby THEN (SELECT greatest(c.timeline_id, y.min_recovery_end_timeline) \
        FROM pg_control_checkpoint() c, pg_control_recovery() y) END, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint \
    FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) r";

/// A file that cannot be read now may be readable later (a grant, a promotion that is not finished).
const HISTORY_RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn run(core: Arc<Core>, node: Arc<Node>) {
    let mut session: Option<Session> = None;
    let mut history_failed: Option<Instant> = None;
    loop {
        let seen = probe(&core, &node, &mut session).await;
        match seen {
            Some(sighting) => core.learn(|topology, now| topology.saw(node.index, sighting, now)),
            None => {
                session = None;
                core.learn(|topology, now| topology.failed(node.index, now));
            }
        }
        if let (Some(session), Some(timeline)) = (&session, core.wanted_history()) {
            let due = history_failed.is_none_or(|at| at.elapsed() >= HISTORY_RETRY);
            if due && core.view.load().nodes[node.index].timeline == Some(timeline) {
                match history(&core, session, timeline).await {
                    Some(history) => core.learn(|topology, now| topology.learn(history, now)),
                    None => history_failed = Some(Instant::now()),
                }
            }
        }
        // A kick wakes it earlier; the short rest keeps a flood of kicks from becoming a flood of probes.
        let rest = core.settings.probe_interval.min(Duration::from_millis(5));
        tokio::time::sleep(rest).await;
        let _ = timeout(core.settings.probe_interval - rest, node.kick.notified()).await;
    }
}

async fn probe(core: &Core, node: &Arc<Node>, session: &mut Option<Session>) -> Option<Sighting> {
    if session
        .as_ref()
        .is_none_or(|session| session.client.is_closed())
    {
        match node.connect().await {
            Ok(fresh) => *session = Some(fresh),
            Err(error) => {
                tracing::debug!(node = &*node.name, %error, "probe cannot connect");
                return None;
            }
        }
    }
    let client = &session.as_ref()?.client;
    let answer = match timeout(core.settings.probe_timeout, client.simple_query(PROBE)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(node = &*node.name, %error, "probe failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(node = &*node.name, "probe timed out");
            return None;
        }
    };
    let row = first_row(&answer)?;
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
        started: field(row, 7)?,
    })
}

async fn history(core: &Core, session: &Session, timeline: u32) -> Option<History> {
    let sql = format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history', 0, 65536, true)");
    let answer = timeout(
        core.settings.probe_timeout,
        session.client.simple_query(&sql),
    )
    .await;
    match answer {
        Ok(Ok(rows)) => first_row(&rows)?
            .get(0)
            .map(|text| History::parse(timeline, text)),
        Ok(Err(error)) => {
            tracing::debug!(timeline, %error, "timeline history cannot be read");
            None
        }
        Err(_) => None,
    }
}
