//! The table for people and the rows for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::writers::Outage;

const OURS: &str = "ours";

/// The rounds of one contender.
type Rounds = (&'static str, Vec<Outage>);

/// By case, then by contender in the order of running, each with its rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    cases: Vec<(&'static str, Vec<Rounds>)>,
}

/// The middle one; a gap that did not end is longer than any.
fn gap(rounds: &[Outage]) -> Option<Duration> {
    let mut gaps: Vec<Duration> = rounds
        .iter()
        .map(|outage| outage.gap.unwrap_or(Duration::MAX))
        .collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2)
        .copied()
        .filter(|gap| *gap != Duration::MAX)
}

fn sum(rounds: &[Outage], of: fn(&Outage) -> u64) -> u64 {
    rounds.iter().map(of).sum()
}

impl Report {
    pub(crate) fn add(&mut self, case: &'static str, outages: Vec<Outage>) {
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

    /// Of each case the median gap in ms, and acknowledged, lost, refused and unknown writes of all rounds together.
    pub(crate) fn rows(&self) -> String {
        let mut rows = Vec::new();
        for (case, contenders) in &self.cases {
            let mut row = |unit: &str, value: &dyn Fn(&[Outage]) -> Value| {
                let of = |(who, rounds): &Rounds| (*who, value(rounds));
                let all: BTreeMap<_, _> = contenders.iter().map(of).collect();
                let ours = all.get(OURS).cloned();
                let peers: BTreeMap<_, _> =
                    all.into_iter().filter(|(who, _)| *who != OURS).collect();
                let mut row = json!({"bench": "redis", "case": case, "peers": peers});
                row[format!("ours_{unit}")] = json!(ours);
                rows.push(row);
            };
            row("gap_ms", &|rounds| {
                json!(gap(rounds).map(|gap| gap.as_millis() as u64))
            });
            row("acknowledged", &|rounds| {
                json!(sum(rounds, |o| o.acknowledged))
            });
            row("lost", &|rounds| json!(sum(rounds, |o| o.lost)));
            row("not_sent", &|rounds| json!(sum(rounds, |o| o.not_sent)));
            row("unknown", &|rounds| json!(sum(rounds, |o| o.unknown)));
        }
        format!("{:#}\n", Value::Array(rows))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, contenders) in &self.cases {
            writeln!(
                f,
                "\n{case:<27} {:>10} {:>13} {:>7} {:>9} {:>8}",
                "gap ms", "acknowledged", "lost", "not sent", "unknown"
            )?;
            for (who, rounds) in contenders {
                let gap = gap(rounds).map_or("stuck".to_owned(), |gap| gap.as_millis().to_string());
                writeln!(
                    f,
                    "{who:<27} {gap:>10} {:>13} {:>7} {:>9} {:>8}",
                    sum(rounds, |o| o.acknowledged),
                    sum(rounds, |o| o.lost),
                    sum(rounds, |o| o.not_sent),
                    sum(rounds, |o| o.unknown)
                )?;
            }
        }
        Ok(())
    }
}
