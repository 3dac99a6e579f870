//! The table for people and the rows for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::generator::Tally;

const OURS: &str = "ours";

#[derive(Debug)]
struct Line {
    per_second: f64,
    quantiles: [Duration; 3],
    max: Duration,
    failed: u64,
}

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
    pub(crate) fn add(&mut self, case: &'static str, who: &'static str, tally: &Tally) {
        let line = Line {
            per_second: tally.per_second(),
            quantiles: [0.5, 0.9, 0.99].map(|q| tally.latency.quantile(q).unwrap_or_default()),
            max: tally.latency.max(),
            failed: tally.failed,
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

    /// p99 of each case in ns, and the recoveries in seconds.
    pub(crate) fn rows(&self) -> String {
        let mut rows: Vec<Value> = self
            .cases
            .iter()
            .map(|(case, lines)| {
                let p99 = |line: &Line| line.p99().as_nanos() as u64;
                let ours = lines.iter().find(|(who, _)| *who == OURS);
                let peers: BTreeMap<_, _> = lines
                    .iter()
                    .filter(|(who, _)| *who != OURS)
                    .map(|(who, line)| (*who, p99(line)))
                    .collect();
                let case = format!("{case}_p99");
                json!({"bench": "tail", "case": case, "ours_ns": ours.map(|(_, l)| p99(l)), "peers": peers})
            })
            .collect();
        let recoveries: BTreeMap<_, _> = self
            .recoveries
            .iter()
            .map(|(who, after)| (*who, after.map(|a| a.as_secs_f64())))
            .collect();
        let peers: BTreeMap<_, _> = recoveries.iter().filter(|(who, _)| **who != OURS).collect();
        rows.push(json!({"bench": "tail", "case": "recovery", "ours_s": recoveries.get(OURS), "peers_s": peers}));
        format!("{:#}\n", Value::Array(rows))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        for (case, lines) in &self.cases {
            writeln!(
                f,
                "\n{case:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>12}",
                "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed", "p99/healthy"
            )?;
            for (who, line) in lines {
                let [p50, p90, p99] = line.quantiles.map(ms);
                write!(
                    f,
                    "{who:<20} {:>9.0} {p50:>9.2} {p90:>9.2} {p99:>9.2} {:>9.2} {:>7}",
                    line.per_second,
                    ms(line.max),
                    line.failed
                )?;
                let healthy = case
                    .strip_suffix("one_slow")
                    .and_then(|loop_| self.line(&format!("{loop_}healthy"), who));
                match healthy {
                    Some(healthy) => writeln!(f, " {:>11.2}x", p99 / ms(healthy.p99()))?,
                    None => writeln!(f)?,
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
