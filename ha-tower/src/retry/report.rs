//! Events and counters, documented in the [module](super).

use std::borrow::Cow;
use std::time::Duration;

use super::policy::Cause;
use super::terms::GaveUp;

type Name = Cow<'static, str>;

pub(super) fn waits(name: &Name, made: u32, cause: Cause, wait: Duration) {
    crate::trace::debug!(
        retry = &**name,
        attempts = made,
        cause = of_cause(cause),
        ?wait,
        "attempt failed, another follows"
    );
}

pub(super) fn retried(name: &Name, cause: Cause) {
    count("ha_retry_retries_total", name, "cause", of_cause(cause));
}

pub(super) fn gave_up(name: &Name, reason: GaveUp) {
    let reason = of_reason(reason);
    crate::trace::debug!(retry = &**name, reason, "attempt failed, no other follows");
    count("ha_retry_given_up_total", name, "reason", reason);
}

pub(super) fn bad_header(name: &Name, header: &'static str) {
    crate::trace::debug!(retry = &**name, header, "header makes no sense");
    count("ha_retry_bad_headers_total", name, "header", header);
}

#[cfg(feature = "metrics")]
fn count(counter: &'static str, name: &Name, label: &'static str, value: &'static str) {
    metrics::counter!(counter, "retry" => name.clone(), label => value).increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &'static str, _: &Name, _: &'static str, _: &'static str) {}

fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Unsent => "unsent",
        Cause::Error => "error",
        Cause::Status => "status",
        Cause::Broken => "broken",
        Cause::Timeout => "timeout",
    }
}

fn of_reason(reason: GaveUp) -> &'static str {
    match reason {
        GaveUp::Attempts => "attempts",
        GaveUp::Body => "body",
        GaveUp::Pushback => "pushback",
        GaveUp::Deadline => "deadline",
        GaveUp::Budget => "budget",
    }
}
