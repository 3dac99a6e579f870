//! The judgement: one row per phase, what was broken, a table and JSON.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ha_testbed::load::Histogram;
use ha_testbed::oracle::Violation;
use serde::Serialize;

use super::ledger::{Closed, Tally, Trouble};

/// With fewer operations or acknowledged writes a phase proves nothing.
const FEWEST_REQUESTS: u64 = 50;
const FEWEST_WRITES: u64 = 15;

/// One phase.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) requests: u64,
    pub(crate) failed_reads: u64,
    pub(crate) failed_writes: u64,
    pub(crate) retried: u64,
    pub(crate) acked_writes_lost: u64,
    pub(crate) duplicated_writes: u64,
    pub(crate) stale_reads: u64,
    pub(crate) logged_out: u64,
    pub(crate) longest_write_pause_ms: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Nothing when it did not heal.
    pub(crate) healed_ms: Option<u64>,
    pub(crate) acked_writes: u64,
    pub(crate) phantoms: u64,
    pub(crate) unkeyed_writes_unknown: u64,
    pub(crate) before: Latency,
    pub(crate) during: Latency,
    pub(crate) after: Latency,
    pub(crate) broken: Vec<String>,
}

/// The latency of a part of a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl From<Histogram> for Latency {
    fn from(histogram: Histogram) -> Self {
        let ms = |quantile| {
            let value = histogram.quantile(quantile).unwrap_or_default();
            (value.as_secs_f64() * 10_000.0).round() / 10.0
        };
        Self {
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

/// The drill's result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) passed: bool,
    pub(crate) phases: Vec<Row>,
    pub(crate) without: Vec<String>,
    pub(crate) took_ms: u64,
    /// What went wrong outside of any phase.
    pub(crate) broken: Vec<String>,
}

impl Report {
    /// Judges the closed book.
    pub(crate) fn judge(seed: u64, closed: &Closed, without: Vec<String>, took: Duration) -> Self {
        let mut phases: Vec<_> = closed
            .phases
            .iter()
            .enumerate()
            .map(|(index, tally)| count(index, tally, closed))
            .collect();
        let mut broken = Vec::new();
        let mut examples: Vec<Vec<String>> = vec![Vec::new(); phases.len()];
        for violation in &closed.verdict.violations {
            let key = match violation {
                Violation::Lost { key, .. }
                | Violation::Duplicated { key, .. }
                | Violation::Phantom { key, .. } => key,
                // Judged when it happened, by the operation that saw it.
                _ => continue,
            };
            let Some(phase) = closed.phase_of(key) else {
                broken.push(violation.to_string());
                continue;
            };
            let row = &mut phases[phase];
            match violation {
                Violation::Lost { .. } => row.acked_writes_lost += 1,
                Violation::Duplicated { .. } => row.duplicated_writes += 1,
                _ => row.phantoms += 1,
            }
            if examples[phase].len() < 5 {
                examples[phase].push(violation.to_string());
            }
        }
        for ((row, tally), examples) in phases.iter_mut().zip(&closed.phases).zip(examples) {
            row.broken = broken_in(row, tally, &examples);
        }
        let passed = broken.is_empty()
            && !phases.is_empty()
            && phases.iter().all(|row| row.broken.is_empty());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self {
            seed,
            passed,
            phases,
            without,
            took_ms,
            broken,
        }
    }

    /// One line per broken promise, with the phase.
    pub(crate) fn broken(&self) -> Vec<String> {
        let phases = self.phases.iter().flat_map(|row| {
            row.broken
                .iter()
                .map(move |broken| format!("{}: {broken}", row.name))
        });
        phases.chain(self.broken.iter().cloned()).collect()
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let head = [
            "phase",
            "requests",
            "failed r/w",
            "retried",
            "unkeyed ?",
            "lost",
            "dup",
            "stale",
            "out",
            "write pause",
            "before p50/p99",
            "during",
            "after",
            "healed",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for row in &self.phases {
            let latency = |l: Latency| format!("{:.1}/{:.0}", l.p50_ms, l.p99_ms);
            lines.push(vec![
                row.name.clone(),
                row.requests.to_string(),
                format!("{}/{}", row.failed_reads, row.failed_writes),
                row.retried.to_string(),
                row.unkeyed_writes_unknown.to_string(),
                row.acked_writes_lost.to_string(),
                row.duplicated_writes.to_string(),
                row.stale_reads.to_string(),
                row.logged_out.to_string(),
                format!("{} ms", row.longest_write_pause_ms),
                format!("{} ms", latency(row.before)),
                latency(row.during),
                latency(row.after),
                row.healed_ms
                    .map_or("never".to_owned(), |ms| format!("{ms} ms")),
            ]);
        }
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let mut table = String::new();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                let _ = match column {
                    0 => write!(table, "{cell:<width$}"),
                    _ => write!(table, "  {cell:>width$}"),
                };
            }
            table.push('\n');
        }
        table
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(index: usize, tally: &Tally, closed: &Closed) -> Row {
    let end = tally.end.unwrap_or(tally.start);
    let fault = tally.fault.unwrap_or(end);
    let restored = tally.restored.unwrap_or(end);
    let between = |from: Instant, to: Instant| closed.latency(index, from, to).into();
    let all = Latency::from(closed.all_latencies(index));
    Row {
        name: tally.name.to_owned(),
        requests: tally.requests,
        failed_reads: tally.count(Trouble::FailedRead),
        failed_writes: tally.count(Trouble::FailedWrite),
        retried: tally.retried,
        acked_writes_lost: 0,
        duplicated_writes: 0,
        stale_reads: tally.count(Trouble::Stale),
        logged_out: tally.count(Trouble::LoggedOut),
        longest_write_pause_ms: millis(tally.longest_pause),
        p50_ms: all.p50_ms,
        p99_ms: all.p99_ms,
        healed_ms: match (tally.fault, tally.healed) {
            (Some(fault), Some(healed)) => Some(millis(healed.saturating_duration_since(fault))),
            _ => None,
        },
        acked_writes: tally.acknowledged,
        phantoms: 0,
        unkeyed_writes_unknown: tally.count(Trouble::Unknown),
        before: between(tally.start, fault),
        during: between(fault, restored),
        // An operation may end after the phase it began in.
        after: between(restored, end + Duration::from_secs(3600)),
        broken: Vec::new(),
    }
}

fn broken_in(row: &Row, tally: &Tally, of_oracle: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    for trouble in [
        Trouble::FailedRead,
        Trouble::FailedWrite,
        Trouble::Stale,
        Trouble::LoggedOut,
    ] {
        let count = tally.count(trouble);
        if count > 0 {
            let first = tally.examples.iter().find(|(kind, _)| *kind == trouble);
            let first = first.map_or("", |(_, example)| example);
            broken.push(format!("{count} {}, first at {first}", trouble.name()));
        }
    }
    for (count, what) in [
        (row.acked_writes_lost, "acknowledged writes lost"),
        (row.duplicated_writes, "writes applied twice"),
        (row.phantoms, "phantoms"),
    ] {
        if count > 0 {
            broken.push(format!("{count} {what}: {}", of_oracle.join(", ")));
        }
    }
    broken.extend(tally.faults.iter().cloned());
    if row.requests < FEWEST_REQUESTS || row.acked_writes < FEWEST_WRITES {
        broken.push(format!(
            "{} requests and {} acknowledged writes are too few to judge by",
            row.requests, row.acked_writes
        ));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Entry, Ledger};
    use super::*;

    /// A healed phase with enough load, in which `more` happens besides.
    fn drill(more: impl FnOnce(&Ledger, Instant)) -> Ledger {
        let (ledger, t) = (Ledger::default(), Instant::now());
        ledger.begin_phase("edge killed", t);
        ledger.current(|tally| {
            tally.fault = Some(t + Duration::from_millis(100));
            tally.healed = Some(t + Duration::from_millis(350));
        });
        for i in 0..60_u64 {
            let op = ledger.begin(0, t + Duration::from_millis(i * 10));
            let entry = Entry {
                acknowledged: i % 2 == 0,
                ..Entry::default()
            };
            ledger.finish(op, entry, op.start + Duration::from_millis(2));
        }
        more(&ledger, t);
        ledger.end(t + Duration::from_secs(1));
        ledger
    }

    fn judge(ledger: &Ledger, truth: &[&str]) -> Report {
        let closed = ledger.settle(truth.iter().map(ToString::to_string).collect());
        Report::judge(7, &closed, vec![], Duration::from_secs(1))
    }

    fn write(ledger: &Ledger, t: Instant, key: &str, acknowledged: bool) {
        let op = ledger.begin(1, t);
        ledger.invoke(op, "ann", key);
        if acknowledged {
            ledger.acknowledge(key, t);
        }
        ledger.finish(
            op,
            Entry {
                acknowledged,
                ..Entry::default()
            },
            t,
        );
    }

    #[test]
    fn a_clean_book_passes() {
        let ledger = drill(|ledger, t| write(ledger, t, "x", true));
        let report = judge(&ledger, &["x"]);
        assert!(report.passed, "{:?}", report.broken());
        assert_eq!(report.phases[0].healed_ms, Some(250));
    }

    #[test]
    fn each_trouble_alone_fails_the_drill_and_is_named_with_its_phase() {
        for (trouble, named) in [
            (Trouble::FailedRead, "failed reads"),
            (Trouble::FailedWrite, "failed writes"),
            (Trouble::Stale, "stale reads"),
            (Trouble::LoggedOut, "users logged out"),
        ] {
            let report = judge(
                &drill(|ledger, t| {
                    let mut entry = Entry::default();
                    entry.trouble(trouble, "because");
                    ledger.finish(ledger.begin(1, t), entry, t);
                }),
                &[],
            );
            assert!(!report.passed, "{trouble:?}");
            let broken = report.broken().join("\n");
            assert!(broken.starts_with("edge killed: 1 "), "{broken}");
            assert!(
                broken.contains(named) && broken.contains("because"),
                "{broken}"
            );
        }
    }

    #[test]
    fn what_the_oracle_finds_is_charged_to_the_phase_the_write_began_in() {
        for (truth, acknowledged, named) in [
            (&[][..], true, "1 acknowledged writes lost"),
            (&["x", "x"][..], true, "1 writes applied twice"),
            (&["x", "x"][..], false, "1 writes applied twice"),
        ] {
            let ledger = drill(|ledger, t| write(ledger, t, "x", acknowledged));
            let broken = judge(&ledger, truth).broken().join("\n");
            assert!(
                broken.contains("edge killed") && broken.contains(named),
                "{broken}"
            );
        }
    }

    #[test]
    fn a_note_that_nobody_wrote_fails_the_drill() {
        let report = judge(&drill(|_, _| {}), &["ghost"]);
        assert!(!report.passed);
        assert_eq!(report.broken(), ["phantom: `ghost` was never written"]);
    }

    #[test]
    fn an_unkeyed_write_without_an_answer_is_counted_and_allowed() {
        let ledger = drill(|ledger, t| {
            let op = ledger.begin(1, t);
            ledger.invoke(op, "ann", "x");
            let mut entry = Entry::default();
            entry.trouble(Trouble::Unknown, "502");
            ledger.finish(op, entry, t);
        });
        let report = judge(&ledger, &["x"]);
        assert!(report.passed, "{:?}", report.broken());
        assert_eq!(report.phases[0].unkeyed_writes_unknown, 1);
    }

    #[test]
    fn a_phase_that_did_not_heal_fails_the_drill() {
        let ledger = drill(|ledger, _| {
            ledger.current(|tally| {
                tally.healed = None;
                tally.faults.push("not healed within 40 s".to_owned());
            });
        });
        let report = judge(&ledger, &[]);
        assert!(!report.passed);
        assert_eq!(report.phases[0].healed_ms, None);
        assert!(report.table().contains("never"));
    }

    #[test]
    fn a_drill_without_load_or_without_phases_does_not_pass() {
        let (ledger, t) = (Ledger::default(), Instant::now());
        assert!(!judge(&Ledger::default(), &[]).passed);
        ledger.begin_phase("app killed", t);
        ledger.end(t + Duration::from_secs(1));
        let report = judge(&ledger, &[]);
        assert!(!report.passed);
        assert!(
            report.broken()[0].contains("too few"),
            "{:?}",
            report.broken()
        );
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let json = serde_json::to_value(judge(&drill(|_, _| {}), &[])).unwrap();
        assert_eq!((&json["seed"], &json["passed"]), (&7.into(), &true.into()));
        for key in [
            "name",
            "requests",
            "failed_reads",
            "failed_writes",
            "retried",
            "acked_writes_lost",
            "duplicated_writes",
            "stale_reads",
            "logged_out",
            "longest_write_pause_ms",
            "p50_ms",
            "p99_ms",
            "healed_ms",
        ] {
            assert!(json["phases"][0].get(key).is_some(), "{key} is missing");
        }
    }

    #[test]
    fn the_table_has_one_line_per_phase_and_straight_columns() {
        let table = judge(&drill(|_, _| {}), &[]).table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), lines[1].len());
    }
}
