//! What the users of each contender saw of each fault, for people (a table in Markdown) and for programs (rows).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::quantile;
use crate::users::{Report, Stall};

#[derive(Debug)]
struct Line {
    fault: String,
    who: &'static str,
    report: Report,
}

/// By fault, in the order of running, then by contender.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Line>,
}

const HEAD: [&str; 14] = [
    "fault",
    "who",
    "requests",
    "failed",
    "acknowledged",
    "lost",
    "stale",
    "went back",
    "signed out",
    "p99 ms",
    "write stall p50 ms",
    "write stall p99 ms",
    "read stall p50 ms",
    "read stall p99 ms",
];

impl Table {
    pub(crate) fn add(&mut self, fault: &str, who: &'static str, report: Report) {
        let fault = fault.to_owned();
        self.lines.push(Line { fault, who, report });
    }

    /// The lines of one fault, for who waits for the rest.
    pub(crate) fn lines_of(&self, fault: &str) -> String {
        let lines = self.lines.iter().filter(|line| line.fault == fault);
        let lines = lines.map(|line| format!("    {}\n", line.cells()[1..].join("  ")));
        lines.collect()
    }

    pub(crate) fn rows(&self) -> Vec<Value> {
        self.lines.iter().map(Line::row).collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let lines: Vec<_> = self.lines.iter().map(Line::cells).collect();
        ha_benches::markdown::table(&HEAD, &lines, 2)
    }
}

impl Line {
    fn row(&self) -> Value {
        let report = &self.report;
        let length = |stalls: &[Stall], q| quantile(stalls, q).map(|stall| ns(stall.length));
        let open = |stalls: &[Stall]| stalls.iter().filter(|stall| stall.open).count();
        let failures = report.failures.iter().map(|(status, count)| {
            let status = status.map_or("none".to_owned(), |status| status.to_string());
            (status, *count)
        });
        let failures: BTreeMap<String, u64> = failures.collect();
        json!({
            "bench": "session",
            "part": "faults",
            "case": self.fault,
            "who": self.who,
            "users": report.users,
            "requests": report.requests,
            "failed": report.failed(),
            "failed_by_status": failures,
            "acknowledged": report.acknowledged,
            "lost": report.lost,
            "stale": report.stale,
            "went_back": report.went_back,
            "signed_out": report.signed_out,
            "unjudged": report.unjudged,
            "p99_ns": quantile(&report.took, 0.99).map(ns),
            "write_stall_p50_ns": length(&report.write_stalls, 0.5),
            "write_stall_p99_ns": length(&report.write_stalls, 0.99),
            "write_stalls_open": open(&report.write_stalls),
            "read_stall_p50_ns": length(&report.read_stalls, 0.5),
            "read_stall_p99_ns": length(&report.read_stalls, 0.99),
            "read_stalls_open": open(&report.read_stalls),
        })
    }

    fn cells(&self) -> [String; 14] {
        let report = &self.report;
        let ms = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
        let stall = |stalls: &[Stall], q| match quantile(stalls, q) {
            Some(stall) if stall.open && stall.length > OPEN => format!("> {}", ms(stall.length)),
            Some(stall) => ms(stall.length),
            None => "-".to_owned(),
        };
        // What could not be asked for may be lost as well.
        let judged = |count: u64| match report.unjudged {
            0 => count.to_string(),
            users => format!("{count} + those of {users} users"),
        };
        [
            self.fault.clone(),
            self.who.to_owned(),
            report.requests.to_string(),
            report.failed().to_string(),
            report.acknowledged.to_string(),
            judged(report.lost),
            report.stale.to_string(),
            report.went_back.to_string(),
            match report.signed_out {
                0 => "0".to_owned(),
                users => format!("{users} of {}", report.users),
            },
            quantile(&report.took, 0.99).map_or("-".to_owned(), ms),
            stall(&report.write_stalls, 0.5),
            stall(&report.write_stalls, 0.99),
            stall(&report.read_stalls, 0.5),
            stall(&report.read_stalls, 0.99),
        ]
    }
}

/// A stall that the end of the load cut off is only worth a mark if it is longer than a request may take.
const OPEN: Duration = Duration::from_secs(1);

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
