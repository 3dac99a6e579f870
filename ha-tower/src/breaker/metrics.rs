use std::sync::Arc;

use ha_core::breaker::{Outcome, State, Trip};

use super::Event;

// Names and labels are documented in the module above.

pub(super) fn changed(name: &Arc<str>, event: &Event) {
    let (state, level) = match event.state() {
        State::Closed => ("closed", 0.0),
        State::HalfOpen => ("half_open", 1.0),
        _ => ("open", 2.0),
    };
    metrics::gauge!("ha_breaker_state", "breaker" => name.to_string()).set(level);
    metrics::counter!(
        "ha_breaker_changes_total",
        "breaker" => name.to_string(), "state" => state, "cause" => cause(event)
    )
    .increment(1);
}

fn cause(event: &Event) -> &'static str {
    match event {
        Event::Opened { trip, .. } => match trip {
            Trip::FailureRatio => "failure_ratio",
            Trip::ConsecutiveFailures => "consecutive_failures",
            Trip::SlowCallRatio => "slow_call_ratio",
            Trip::Probe => "probe",
            _ => "other",
        },
        Event::HalfOpen => "wait_over",
        Event::Closed => "probes_passed",
        Event::Forced(_) => "forced",
        Event::Reset => "reset",
    }
}

pub(super) fn refused(name: &Arc<str>) {
    metrics::counter!("ha_breaker_refused_total", "breaker" => name.to_string()).increment(1);
}

pub(super) fn failed(name: &Arc<str>, outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Failure => "failure",
        Outcome::Overloaded => "overloaded",
        _ => return,
    };
    let name = name.to_string();
    metrics::counter!("ha_breaker_failures_total", "breaker" => name, "outcome" => outcome)
        .increment(1);
}
