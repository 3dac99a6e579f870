//! The table for people, in Markdown, and the rows for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::available_parallelism;
use std::time::Duration;

use ha_benches::markdown::table;
use serde_json::{Value, json};

use crate::writers::Outage;

const OURS: &str = "ours";

/// The rounds of one contender.
type Rounds = (&'static str, Vec<Outage>);

/// By case, then by contender in the order of running, each with its rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    version: String,
    cases: Vec<(&'static str, Vec<Rounds>)>,
}

/// The longest; a gap that did not end is longer than any.
fn gap(rounds: &[Outage]) -> Option<Duration> {
    let gaps: Option<Vec<Duration>> = rounds.iter().map(|outage| outage.gap).collect();
    gaps?.into_iter().max()
}

fn sum(rounds: &[Outage], of: fn(&Outage) -> u64) -> u64 {
    rounds.iter().map(of).sum()
}

/// What is counted: its name in a row and in the table, and where it is.
type Counted = (&'static str, &'static str, fn(&Outage) -> u64);

const COUNTED: [Counted; 6] = [
    ("acknowledged", "acknowledged", |o| o.acknowledged),
    ("lost", "of these lost", |o| o.lost),
    ("unknown", "may have been applied", |o| o.unknown),
    ("unknown_applied", "of these applied", |o| o.unknown_applied),
    ("not_sent", "not sent", |o| o.not_sent),
    ("twice", "applied twice", |o| o.twice),
];

impl Report {
    pub(crate) fn add(&mut self, case: &'static str, version: String, outages: Vec<Outage>) {
        self.version = version;
        if self.cases.last().is_none_or(|(name, _)| *name != case) {
            self.cases.push((case, Vec::new()));
        }
        let Some((_, contenders)) = self.cases.last_mut() else {
            return;
        };
        for outage in outages {
            match contenders.iter_mut().find(|(who, _)| *who == outage.who) {
                Some((_, rounds)) => rounds.push(outage),
                None => contenders.push((outage.who, vec![outage])),
            }
        }
    }

    /// Of each case the longest gap in ms, and everything that is counted, of all rounds together.
    pub(crate) fn rows(&self) -> String {
        let mut rows = Vec::new();
        for (case, contenders) in &self.cases {
            let mut row = |unit: &str, value: &dyn Fn(&[Outage]) -> Value| {
                let of = |(who, rounds): &Rounds| (*who, value(rounds));
                let mut peers: BTreeMap<_, _> = contenders.iter().map(of).collect();
                let ours = peers.remove(OURS);
                let mut row = json!({"bench": "redis", "case": case, "peers": peers});
                row[format!("ours_{unit}")] = json!(ours);
                rows.push(row);
            };
            row("gap_ms", &|rounds| {
                json!(gap(rounds).map(|gap| gap.as_millis() as u64))
            });
            for (name, _, of) in COUNTED {
                row(name, &|rounds| json!(sum(rounds, of)));
            }
        }
        format!("{:#}\n", Value::Array(rows))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["fault", "who", "longest gap ms"];
        let counted = COUNTED.map(|(_, title, _)| title);
        let head = [&head[..], &counted[..]].concat();
        let mut lines = Vec::new();
        for (case, contenders) in &self.cases {
            for (who, rounds) in contenders {
                let gap = gap(rounds).map_or("stuck".to_owned(), |gap| gap.as_millis().to_string());
                let mut line = vec![(*case).to_owned(), (*who).to_owned(), gap];
                line.extend(COUNTED.map(|(_, _, of)| sum(rounds, of).to_string()));
                lines.push(line);
            }
        }
        let cores = available_parallelism().map_or(0, usize::from);
        writeln!(f, "\nRedis {}, {cores} cores\n", self.version)?;
        f.write_str(&table(&head, &lines, 2))
    }
}
