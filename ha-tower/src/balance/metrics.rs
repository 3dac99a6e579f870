use std::sync::Arc;

use ha_core::breaker;
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::outlier::{Cause, ReturnCause};

use super::Event;

/// Counts what has changed. Names and labels are documented in the [module](super).
pub(super) fn record(upstream: &Arc<str>, event: &Event) {
    let one_more = |name: &'static str, endpoint: &EndpointKey, label, value: &'static str| {
        let endpoint = endpoint.to_string();
        let upstream = upstream.to_string();
        metrics::counter!(name, "upstream" => upstream, "endpoint" => endpoint, label => value)
            .increment(1);
    };
    let now = |name: &'static str, value: f64| {
        metrics::gauge!(name, "upstream" => upstream.to_string()).set(value);
    };
    match event {
        Event::Ejected {
            endpoint, cause, ..
        } => one_more(
            "ha_balance_ejections_total",
            endpoint,
            "cause",
            of_cause(*cause),
        ),
        Event::Returned { endpoint, cause } => {
            let name = "ha_balance_ejections_ended_total";
            one_more(name, endpoint, "cause", of_return(*cause));
        }
        Event::Breaker { endpoint, state } => {
            let name = "ha_balance_breaker_changes_total";
            one_more(name, endpoint, "state", of_breaker(*state));
        }
        Event::Health { endpoint, to, .. } => {
            let name = "ha_balance_health_changes_total";
            one_more(name, endpoint, "state", of_health(*to));
        }
        Event::Updated { total, .. } => now("ha_balance_endpoints", *total as f64),
        Event::Panic { active } => {
            now("ha_balance_panic", f64::from(u8::from(*active)));
            if *active {
                let upstream = upstream.to_string();
                metrics::counter!("ha_balance_panics_total", "upstream" => upstream).increment(1);
            }
        }
        Event::LocalRegionUnknown { .. } => {}
    }
}

fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::ConsecutiveFailures => "consecutive_failures",
        Cause::ConsecutiveConnectFailures => "consecutive_connect_failures",
        Cause::SuccessRate => "success_rate",
        Cause::FailureRatio => "failure_ratio",
        _ => "other",
    }
}

fn of_return(cause: ReturnCause) -> &'static str {
    match cause {
        ReturnCause::Time => "time",
        ReturnCause::Check => "check",
        ReturnCause::Cap => "cap",
        _ => "other",
    }
}

fn of_breaker(state: breaker::State) -> &'static str {
    match state {
        breaker::State::Closed => "closed",
        breaker::State::Open => "open",
        breaker::State::HalfOpen => "half_open",
        _ => "other",
    }
}

fn of_health(state: health::State) -> &'static str {
    match state {
        health::State::Unchecked => "unchecked",
        health::State::Passing => "passing",
        health::State::Failing => "failing",
        health::State::Draining => "draining",
        health::State::RegionSick => "region_sick",
        _ => "other",
    }
}
