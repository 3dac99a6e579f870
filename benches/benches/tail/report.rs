//! The table for people and the rows for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Measured;
use crate::generator::Failure;

const OURS: &str = "ours";

#[derive(Debug)]
struct Line {
    per_second: f64,
    quantiles: [Duration; 3],
    max: Duration,
    failed: BTreeMap<Failure, u64>,
    slow_share: f64,
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

impl Line {
    fn p99(&self) -> Duration {
        self.quantiles[2]
    }
}

/// By case, then by contender in the order of running.
#[derive(Debug, Default)]
pub(crate) struct Report {
    cases: Vec<(&'static str, Vec<(&'static str, Line)>)>,
    recoveries: Vec<(&'static str, Option<Duration>)>,
}

impl Report {
    pub(crate) fn add(&mut self, case: &'static str, who: &'static str, measured: Measured) {
        let Measured { tally, slow_share } = measured;
        let line = Line {
            per_second: tally.per_second(),
            quantiles: QUANTILES.map(|(_, q)| tally.latency.quantile(q).unwrap_or_default()),
            max: tally.latency.max(),
            failed: tally.failed,
            slow_share,
        };
        match self.cases.iter_mut().find(|(name, _)| *name == case) {
            Some((_, lines)) => lines.push((who, line)),
            None => self.cases.push((case, vec![(who, line)])),
        }
    }

    pub(crate) fn recovered(&mut self, who: &'static str, after: Option<Duration>) {
        self.recoveries.push((who, after));
    }

    fn lines(&self, case: &str) -> &[(&'static str, Line)] {
        self.cases
            .iter()
            .find(|(name, _)| *name == case)
            .map_or(&[], |(_, lines)| lines)
    }

    fn line(&self, case: &str, who: &str) -> Option<&Line> {
        let found = self.lines(case).iter().find(|(name, _)| *name == who);
        found.map(|(_, line)| line)
    }

    pub(crate) fn least_throughput(&self, case: &str) -> f64 {
        self.lines(case)
            .iter()
            .map(|(_, line)| line.per_second)
            .fold(f64::INFINITY, f64::min)
    }

    /// Quantiles in ns, answers per second and failures of each case, and the recoveries in seconds.
    pub(crate) fn rows(&self) -> String {
        let mut rows = Vec::new();
        for (case, lines) in &self.cases {
            for (i, (name, _)) in QUANTILES.iter().enumerate() {
                let ns = |line: &Line| json!(line.quantiles[i].as_nanos() as u64);
                rows.push(row(&format!("{case}_{name}"), "ns", lines, ns));
            }
            let per_second = |line: &Line| json!(line.per_second);
            rows.push(row(case, "per_second", lines, per_second));
            let failed = |line: &Line| json!(line.failed.values().sum::<u64>());
            rows.push(row(case, "failed", lines, failed));
            let slow_share = |line: &Line| json!(line.slow_share);
            rows.push(row(case, "slow_share", lines, slow_share));
        }
        let recoveries: BTreeMap<_, _> = self
            .recoveries
            .iter()
            .map(|(who, after)| (*who, after.map(|a| a.as_secs_f64())))
            .collect();
        let (ours, peers): (Vec<_>, Vec<_>) = recoveries.iter().partition(|(who, _)| **who == OURS);
        let peers: BTreeMap<_, _> = peers.into_iter().collect();
        let ours = ours.first().map(|(_, after)| after);
        rows.push(json!({"bench": "tail", "case": "recovery", "ours_s": ours, "peers": peers}));
        format!("{:#}\n", Value::Array(rows))
    }
}

/// One number of each contender.
fn row(
    case: &str,
    unit: &str,
    lines: &[(&'static str, Line)],
    value: impl Fn(&Line) -> Value,
) -> Value {
    let ours = lines.iter().find(|(who, _)| *who == OURS);
    let peers: BTreeMap<_, _> = lines
        .iter()
        .filter(|(who, _)| *who != OURS)
        .map(|(who, line)| (*who, value(line)))
        .collect();
    let mut row = json!({"bench": "tail", "case": case, "peers": peers});
    row[format!("ours_{unit}")] = json!(ours.map(|(_, line)| value(line)));
    row
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        for (case, lines) in &self.cases {
            writeln!(
                f,
                "\n{case:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>12}",
                "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed", "slow %", "p99/healthy"
            )?;
            for (who, line) in lines {
                let [p50, p90, p99] = line.quantiles.map(ms);
                write!(
                    f,
                    "{who:<20} {:>9.0} {p50:>9.2} {p90:>9.2} {p99:>9.2} {:>9.2} {:>7} {:>7.2}",
                    line.per_second,
                    ms(line.max),
                    line.failed.values().sum::<u64>(),
                    100.0 * line.slow_share
                )?;
                let healthy = case
                    .strip_suffix("one_slow")
                    .and_then(|loop_| self.line(&format!("{loop_}healthy"), who));
                match healthy {
                    Some(healthy) => writeln!(f, " {:>11.2}x", p99 / ms(healthy.p99()))?,
                    None => writeln!(f)?,
                }
                for (failure, count) in &line.failed {
                    writeln!(f, "{:<20} {count:>9} failed: {failure}", "")?;
                }
            }
        }
        writeln!(f, "\nnine tenths of its share after it recovered")?;
        for (who, after) in &self.recoveries {
            match after {
                Some(after) => writeln!(f, "{who:<20} {:>8.1} s", after.as_secs_f64())?,
                None => writeln!(f, "{who:<20} not within the watch")?,
            }
        }
        Ok(())
    }
}
