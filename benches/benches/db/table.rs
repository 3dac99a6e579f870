//! What the clients of each contender saw of each fault, for people (a table in Markdown) and for programs (rows).

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::promoted::Promotion;
use crate::workload::{Counts, Gap, Report};

#[derive(Debug)]
struct Line {
    fault: String,
    who: &'static str,
    rounds: u64,
    counts: Counts,
    gaps: Vec<Gap>,
    /// As in [`Promotion`], of all rounds.
    promotions: Vec<Duration>,
    noticed: Vec<Duration>,
    after_promotion: Vec<Duration>,
}

/// By fault, in the order of running, then by contender.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Adds one round.
    pub(crate) fn add(
        &mut self,
        fault: &str,
        who: &'static str,
        report: Report,
        promotion: Option<Promotion>,
    ) {
        let at = self
            .lines
            .iter()
            .position(|line| line.fault == fault && line.who == who);
        let at = at.unwrap_or_else(|| {
            self.lines.push(Line {
                fault: fault.to_owned(),
                who,
                rounds: 0,
                counts: Counts::default(),
                gaps: Vec::new(),
                promotions: Vec::new(),
                noticed: Vec::new(),
                after_promotion: Vec::new(),
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        line.rounds += 1;
        line.counts.add(&report.counts);
        line.gaps.extend(report.gaps);
        if let Some(promotion) = promotion {
            line.promotions.push(promotion.took);
            line.noticed.extend(promotion.noticed);
            line.after_promotion.extend(promotion.after);
        }
    }

    /// The lines of one fault, for who waits for the rest.
    pub(crate) fn lines_of(&self, fault: &str) -> String {
        let lines = self.lines.iter().filter(|line| line.fault == fault);
        let lines = lines.map(|line| format!("    {}\n", line.cells()[1..].join("  ")));
        lines.collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn rows(&self) -> Vec<Value> {
        self.lines.iter().map(Line::row).collect()
    }
}

/// The smallest value that so many of all do not exceed.
pub(crate) fn quantile<T: Ord + Copy>(values: &[T], quantile: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn ns(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| duration.as_nanos() as u64)
}

impl Line {
    fn row(&self) -> Value {
        let gap = |q| quantile(&self.gaps, q);
        let counts = &self.counts;
        json!({
            "bench": "db",
            "case": self.fault,
            "who": self.who,
            "rounds": self.rounds,
            "requests": counts.requests,
            "misses": counts.misses,
            "errors_seen": counts.errors,
            "stale": counts.stale,
            "lost": counts.lost,
            "lost_and_reported": counts.reported,
            "duplicates": counts.duplicates,
            "phantoms": counts.phantoms,
            "replica_ratio": counts.replica_ratio(),
            "write_gap_p50_ns": ns(gap(0.5).map(|gap| gap.length)),
            "write_gap_p99_ns": ns(gap(0.99).map(|gap| gap.length)),
            "write_gap_open": self.gaps.iter().filter(|gap| gap.open).count(),
            "promotion_p50_ns": ns(quantile(&self.promotions, 0.5)),
            "promotion_p99_ns": ns(quantile(&self.promotions, 0.99)),
            "noticed_p50_ns": ns(quantile(&self.noticed, 0.5)),
            "noticed_p99_ns": ns(quantile(&self.noticed, 0.99)),
            "after_promotion_p50_ns": ns(quantile(&self.after_promotion, 0.5)),
            "after_promotion_p99_ns": ns(quantile(&self.after_promotion, 0.99)),
        })
    }

    fn cells(&self) -> [String; 15] {
        let ms = |duration: Duration| format!("{:.0}", duration.as_secs_f64() * 1e3);
        let gap = |q| match quantile(&self.gaps, q) {
            Some(gap) if gap.open => format!("> {}", ms(gap.length)),
            Some(gap) => ms(gap.length),
            None => "-".to_owned(),
        };
        let time = |all: &[Duration], q| quantile(all, q).map_or("-".to_owned(), ms);
        let counts = &self.counts;
        let fault = match self.rounds {
            1 => self.fault.clone(),
            rounds => format!("{} ({rounds} times)", self.fault),
        };
        [
            fault,
            self.who.to_owned(),
            counts.requests.to_string(),
            counts.misses.to_string(),
            counts.stale.to_string(),
            counts.lost.to_string(),
            counts.reported.to_string(),
            counts.duplicates.to_string(),
            counts
                .replica_ratio()
                .map_or("-".to_owned(), |ratio| format!("{:.1}", 100.0 * ratio)),
            gap(0.5),
            gap(0.99),
            time(&self.promotions, 0.5),
            time(&self.noticed, 0.5),
            time(&self.after_promotion, 0.5),
            time(&self.after_promotion, 0.99),
        ]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "fault",
            "who",
            "requests",
            "misses",
            "stale",
            "lost",
            "reported",
            "duplicates",
            "% on replicas",
            "gap p50 ms",
            "gap p99 ms",
            "promotion p50 ms",
            "noticed after p50 ms",
            "written after p50 ms",
            "written after p99 ms",
        ]
        .map(str::to_owned);
        let mut lines = vec![head];
        lines.extend(self.lines.iter().map(Line::cells));
        let width = |column: usize| {
            lines
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..15).filter_map(width).collect();
        for (at, cells) in lines.iter().enumerate() {
            let padded = cells.iter().zip(&widths).enumerate();
            let padded = padded.map(|(column, (cell, width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            writeln!(f, "| {} |", padded.collect::<Vec<_>>().join(" | "))?;
            if at == 0 {
                let rules = widths
                    .iter()
                    .enumerate()
                    .map(|(column, width)| match column {
                        0 | 1 => "-".repeat(*width),
                        _ => format!("{}:", "-".repeat(width - 1)),
                    });
                writeln!(f, "| {} |", rules.collect::<Vec<_>>().join(" | "))?;
            }
        }
        Ok(())
    }
}
