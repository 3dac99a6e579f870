//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::table::Table;

pub(crate) const OURS: &str = "ours";

/// One number for each contender.
#[derive(Debug)]
struct Row {
    case: String,
    unit: &'static str,
    values: Vec<(&'static str, f64)>,
}

/// Rows in the order of measuring, and the table of the gaps.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    pub(crate) gaps: Table,
}

impl Report {
    pub(crate) fn add(&mut self, case: &str, unit: &'static str, who: &'static str, value: f64) {
        let known = |row: &&mut Row| row.case == case && row.unit == unit;
        match self.rows.iter_mut().find(known) {
            Some(row) => row.values.push((who, value)),
            None => self.rows.push(Row {
                case: case.to_owned(),
                unit,
                values: vec![(who, value)],
            }),
        }
    }

    pub(crate) fn rows(&self) -> Vec<Value> {
        let rows = self.rows.iter().map(|row| {
            let ours = row.values.iter().find(|(who, _)| *who == OURS);
            let peers: BTreeMap<_, _> = row
                .values
                .iter()
                .filter(|(who, _)| *who != OURS)
                .copied()
                .collect();
            let mut json = json!({"bench": "db", "case": row.case, "peers": peers});
            json[format!("ours_{}", row.unit)] = json!(ours.map(|(_, value)| value));
            json
        });
        rows.chain(self.gaps.rows()).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = self
            .rows
            .iter()
            .map(|row| row.case.len())
            .max()
            .unwrap_or(0);
        for row in &self.rows {
            write!(f, "{:<case$} {:>12}", row.case, row.unit)?;
            for (who, value) in &row.values {
                write!(f, "   {who} {value:.2}")?;
            }
            writeln!(f)?;
        }
        if self.gaps.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", self.gaps)
    }
}
