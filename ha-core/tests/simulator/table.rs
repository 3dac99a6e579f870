//! The policies beside each other, as a table in `docs/balance-policies.md`.
//!
//! Fails when the table there is not what a run gives. `HA_BLESS=1` writes it:
//! `HA_BLESS=1 cargo test -p ha-core --test simulator table -- --nocapture`

use std::fmt::Write;
use std::time::Duration;

use crate::client::{Settings, endpoints};
use crate::engine::{Arrivals, World};
use crate::picker::Policy;
use crate::report::{Millis, Report};
use crate::server::{Behaviour, Server};

pub(crate) const POLICIES: [Policy; 7] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastRequest,
    Policy::PeakEwma,
    Policy::Ring,
    Policy::Maglev,
    Policy::Rendezvous,
];

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const BEGIN: &str = "<!-- begin: made by ha-core/tests/simulator/table.rs -->\n";
const END: &str = "<!-- end -->\n";

struct Scenario {
    title: &'static str,
    servers: fn() -> Vec<Server>,
    arrivals: Arrivals,
    seconds: u32,
    settings: fn(Policy) -> Settings,
}

/// Ten endpoints with four workers each, of which the first is another one.
fn ten(first: Behaviour) -> Vec<Server> {
    let mut servers = vec![Server::new(Behaviour::Exponential(10 * MS)).workers(4); 10];
    servers[0] = Server::new(first).workers(4);
    servers
}

/// Three endpoints that sleep, of which the first sleeps so long.
fn three(first: Duration) -> Vec<Server> {
    let mut servers = vec![Server::new(Behaviour::Constant(MS)); 3];
    servers[0] = Server::new(Behaviour::Constant(first));
    servers
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        title: "10 endpoints alike, 4 workers of 10 ms (exponential) each, open loop at 50 % of what they can do",
        servers: || ten(Behaviour::Exponential(10 * MS)),
        arrivals: Arrivals::Open(2_000.0),
        seconds: 10,
        settings: Settings::bare,
    },
    Scenario {
        title: "the same at 80 %",
        servers: || ten(Behaviour::Exponential(10 * MS)),
        arrivals: Arrivals::Open(3_200.0),
        seconds: 10,
        settings: Settings::bare,
    },
    Scenario {
        title: "the same at 50 %, one of them 100 × slower",
        servers: || ten(Behaviour::Exponential(SEC)),
        arrivals: Arrivals::Open(2_000.0),
        seconds: 10,
        settings: Settings::bare,
    },
    Scenario {
        title: "3 endpoints that sleep 1 ms, 32 clients in a closed loop",
        servers: || three(MS),
        arrivals: Arrivals::Closed(32),
        seconds: 4,
        settings: Settings::bare,
    },
    Scenario {
        title: "the same, one of them 100 × slower",
        servers: || three(100 * MS),
        arrivals: Arrivals::Closed(32),
        seconds: 4,
        settings: Settings::bare,
    },
    Scenario {
        title: "10 endpoints as above at 50 %, one fails every request after 1 ms and passes its checks; breakers, checks and outlier ejection on",
        servers: || ten(Behaviour::Fails(MS)),
        arrivals: Arrivals::Open(2_000.0),
        seconds: 10,
        settings: Settings::full,
    },
    Scenario {
        title: "the same, one freezes after 5 s (timeout 1 s)",
        servers: || {
            let mut servers = ten(Behaviour::Exponential(10 * MS));
            servers[0] = servers[0].clone().then(5 * SEC, Behaviour::Freezes);
            servers
        },
        arrivals: Arrivals::Open(2_000.0),
        seconds: 10,
        settings: Settings::full,
    },
];

fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::RoundRobin => "round robin",
        Policy::Random => "random",
        Policy::LeastRequest => "P2C least-request",
        Policy::PeakEwma => "P2C peak-EWMA",
        Policy::Ring => "ring hash, bounded load",
        Policy::Maglev => "Maglev, bounded load",
        Policy::Rendezvous => "rendezvous, bounded load",
    }
}

fn run(scenario: &Scenario, policy: Policy) -> Report {
    let servers = (scenario.servers)();
    let settings = (scenario.settings)(policy);
    let endpoints = endpoints(servers.len());
    World::new(settings, &endpoints, servers, scenario.arrivals, 61).run(scenario.seconds * SEC)
}

fn table() -> String {
    let mut table = String::new();
    for scenario in &SCENARIOS {
        let title = scenario.title;
        write!(
            table,
            "\n### {}{}\n\n",
            title[..1].to_uppercase(),
            &title[1..]
        )
        .unwrap();
        table += "| policy | p50 ms | p99 ms | p999 ms | failed % | requests/s |\n";
        table += "|---|--:|--:|--:|--:|--:|\n";
        for policy in POLICIES {
            let report = run(scenario, policy);
            let [p50, p99, p999] = report.quantiles([0.5, 0.99, 0.999]).map(Millis);
            let time = 0.0..f64::from(scenario.seconds);
            let failed = report.failed_ratio(time.clone()) * 100.0;
            let rate = report.per_second(time);
            let name = name(policy);
            writeln!(
                table,
                "| {name} | {p50} | {p99} | {p999} | {failed:.2} | {rate:.0} |"
            )
            .unwrap();
        }
    }
    table + "\n"
}

// The libm of another platform rounds `exp` and `ln` otherwise, and after a million requests that shows.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn the_table_in_the_docs_is_what_a_run_gives() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balance-policies.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (committed, after) = rest.split_once(END).unwrap();
    let fresh = table();
    println!("{fresh}");
    if std::env::var_os("HA_BLESS").is_some() {
        let page = format!("{before}{BEGIN}{fresh}{END}{after}");
        std::fs::write(path, page).unwrap();
        return;
    }
    assert!(
        committed == fresh,
        "docs/balance-policies.md is out of date; write it with HA_BLESS=1"
    );
}

#[test]
fn one_slow_endpoint_of_three_does_not_show_in_the_tail_of_peak_ewma_and_does_in_round_robin() {
    let p99 = |scenario: &Scenario, policy| run(scenario, policy).quantiles([0.99])[0];
    let (well, slow) = (&SCENARIOS[3], &SCENARIOS[4]);
    assert!(p99(slow, Policy::PeakEwma) <= p99(well, Policy::PeakEwma).mul_f64(1.2));
    assert!(p99(slow, Policy::RoundRobin) >= 100 * MS);
}
