use super::counters::Tally;
use super::{Cause, Config, Failure, SuccessRate};

/// An endpoint by its index, with what it did in the interval.
pub(super) type Host = (usize, Tally);

/// Whom a whole interval condemns, the worst first, so that the cap spares the better ones. One may come twice.
pub(super) fn outliers(config: &Config, hosts: &[Host]) -> Vec<(usize, Cause)> {
    let compared = config.success_rate.as_ref();
    let failing = config.failure.as_ref();
    let mut found: Vec<(Host, Cause)> = compared
        .into_iter()
        .flat_map(|rule| below_the_others(rule, hosts))
        .map(|host| (host, Cause::SuccessRate))
        .chain(
            failing
                .into_iter()
                .flat_map(|rule| nearly_always_failing(rule, hosts))
                .map(|host| (host, Cause::FailureRatio)),
        )
        .collect();
    let badness = |found: &(Host, Cause)| found.0.1.failure_ratio();
    found.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
    found
        .into_iter()
        .map(|((i, _), cause)| (i, cause))
        .collect()
}

fn below_the_others(rule: &SuccessRate, hosts: &[Host]) -> Vec<Host> {
    let mut judged = busy(hosts, rule.minimum_requests, rule.minimum_hosts);
    let n = judged.len() as f64;
    let ratio = |host: &Host| host.1.success_ratio();
    let mean = judged.iter().map(ratio).sum::<f64>() / n;
    let variance = judged
        .iter()
        .map(|host| (ratio(host) - mean).powi(2))
        .sum::<f64>()
        / n;
    let limit = mean - (rule.deviations * variance.sqrt()).max(rule.minimum_gap_ratio);
    judged.retain(|host| ratio(host) < limit);
    judged
}

fn nearly_always_failing(rule: &Failure, hosts: &[Host]) -> Vec<Host> {
    let mut judged = busy(hosts, rule.minimum_requests, rule.minimum_hosts);
    judged.retain(|host| host.1.failure_ratio() >= rule.failure_ratio);
    judged
}

/// Those with enough requests, or none when there are too few of them.
fn busy(hosts: &[Host], minimum_requests: u32, minimum_hosts: u32) -> Vec<Host> {
    let enough = |host: &&Host| host.1.requests >= minimum_requests;
    let busy: Vec<Host> = hosts.iter().filter(enough).copied().collect();
    if busy.len() < minimum_hosts as usize {
        return Vec::new();
    }
    busy
}
