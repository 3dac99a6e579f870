use ha_core::limit::Priority;

use super::Reason;

/// Counts a refusal. Names and labels are documented in the [module](super).
pub(super) fn shed(limit: &str, reason: Reason, priority: Priority) {
    let limit = limit.to_owned();
    let (reason, priority) = (reason.as_str(), priority.as_str());
    metrics::counter!("ha_limit_shed_total", "limit" => limit, "reason" => reason, "priority" => priority)
        .increment(1);
}

/// Says how an adaptive limit stands after it has changed.
pub(super) fn limit(name: &str, limit: u32, in_flight: u32) {
    metrics::gauge!("ha_limit_limit", "limit" => name.to_owned()).set(f64::from(limit));
    metrics::gauge!("ha_limit_in_flight", "limit" => name.to_owned()).set(f64::from(in_flight));
}
