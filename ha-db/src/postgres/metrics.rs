use super::event::Event;
use super::role::{NoPrimary, Role};
use super::shared::Snapshot;
use super::view::NodeView;

// Names and labels are documented in the module above.

pub(crate) fn record(event: &Event) {
    match event {
        Event::PrimaryChanged { epoch, .. } => {
            metrics::counter!("ha_db_primary_changes_total").increment(1);
            metrics::gauge!("ha_db_epoch").set(*epoch as f64);
        }
        Event::PrimaryLost { reason } => {
            metrics::counter!("ha_db_primary_losses_total", "reason" => of_reason(*reason))
                .increment(1);
        }
        Event::Ejected { node, .. } => {
            metrics::counter!("ha_db_ejections_total", "node" => node.to_string()).increment(1);
        }
        Event::Readmitted { node } => {
            metrics::counter!("ha_db_readmissions_total", "node" => node.to_string()).increment(1);
        }
        Event::NodeRemoved { node } => gone(node),
        Event::ProblemFound { node, .. } => {
            metrics::counter!("ha_db_problems_total", "node" => node.to_string()).increment(1);
        }
        _ => {}
    }
}

/// What is so now.
pub(crate) fn gauges(now: &Snapshot) {
    metrics::gauge!("ha_db_primary_known").set(f64::from(u8::from(now.primary.is_ok())));
    for (node, seen) in now.present() {
        let name = || node.name.to_string();
        metrics::gauge!("ha_db_node_reachable", "node" => name())
            .set(f64::from(u8::from(seen.reachable)));
        metrics::gauge!("ha_db_in_use", "node" => name()).set(node.in_use() as f64);
        metrics::gauge!("ha_db_lag_seconds", "node" => name()).set(lag(seen));
    }
}

/// Of a primary there is none, and what nobody can tell is no number.
fn lag(seen: &NodeView) -> f64 {
    match seen.role {
        Role::Primary => 0.0,
        _ => seen.lag.map_or(f64::NAN, |lag| lag.as_secs_f64()),
    }
}

/// A gauge cannot be taken back, so what it says of a node that has left is that there is nothing.
fn gone(node: &std::sync::Arc<str>) {
    let name = || std::sync::Arc::clone(node);
    metrics::gauge!("ha_db_node_reachable", "node" => name()).set(0.0);
    metrics::gauge!("ha_db_in_use", "node" => name()).set(0.0);
    metrics::gauge!("ha_db_lag_seconds", "node" => name()).set(f64::NAN);
}

pub(crate) fn read(node: &std::sync::Arc<str>, how: &'static str) {
    metrics::counter!("ha_db_reads_total", "node" => std::sync::Arc::clone(node), "how" => how)
        .increment(1);
}

fn of_reason(reason: NoPrimary) -> &'static str {
    match reason {
        NoPrimary::NothingKnown => "nothing_known",
        NoPrimary::NotFound => "not_found",
        NoPrimary::Tie => "tie",
        NoPrimary::SystemIdDispute => "system_id_dispute",
        NoPrimary::StaleForToken => "stale_for_token",
    }
}
