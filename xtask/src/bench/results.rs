//! What the contenders of one bench did, by unit, case and contender.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{file, read, wrong};
use crate::run::Failure;

pub(super) const OURS: &str = "ours";
const MEASURED: &str = "ns";

/// One number by who ran, for one case.
pub(super) type Row = BTreeMap<String, f64>;

#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) units: BTreeMap<String, BTreeMap<String, Row>>,
}

impl Results {
    /// Reads the median of every result under a group's folder of criterion's.
    pub(super) fn add_measured(&mut self, group: &Path) -> Result<(), Failure> {
        let mut none = true;
        for case in folders(group)? {
            for who in folders(&case)? {
                let new = who.join("new");
                if !new.is_dir() {
                    continue; // a report
                }
                let (case, who, median) = measured(&new)?;
                self.add(MEASURED, &case, &who, median);
                none = false;
            }
        }
        if none {
            return Err(wrong(group, "holds no result"));
        }
        Ok(())
    }

    /// Takes rows `{"unit", "case", "who", "value"}`.
    pub(super) fn add_counted(&mut self, rows: &[Value]) -> Result<(), Failure> {
        for row in rows {
            let (Some(unit), Some(case), Some(who), Some(value)) = (
                row["unit"].as_str(),
                row["case"].as_str(),
                row["who"].as_str(),
                row["value"].as_f64(),
            ) else {
                return Err(wrong(
                    Path::new(&row.to_string()),
                    "is no row of unit, case, who and value",
                ));
            };
            self.add(unit, case, who, value);
        }
        Ok(())
    }

    pub(super) fn add(&mut self, unit: &str, case: &str, who: &str, value: f64) {
        let cases = self.units.entry(unit.to_owned()).or_default();
        let row = cases.entry(case.to_owned()).or_default();
        row.insert(who.to_owned(), value);
    }

    /// `{"bench", "case", "ours_UNIT", "peers": {WHO: value}}` for each case.
    pub(super) fn json_rows(&self, bench: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        for (unit, cases) in &self.units {
            for (case, row) in cases {
                let peers: Map<_, _> = row
                    .iter()
                    .filter(|(who, _)| *who != OURS)
                    .map(|(who, value)| (who.clone(), json!(value)))
                    .collect();
                let mut json = json!({"bench": bench, "case": case, "peers": peers});
                json[format!("ours_{unit}")] = json!(row.get(OURS));
                rows.push(json);
            }
        }
        rows
    }
}

fn measured(new: &Path) -> Result<(String, String, f64), Failure> {
    let path = new.join("benchmark.json");
    let benchmark = read(&path)?;
    let (Some(case), Some(who)) = (
        benchmark["function_id"].as_str(),
        benchmark["value_str"].as_str(),
    ) else {
        return Err(wrong(&path, "names no CASE and WHO"));
    };
    let path = new.join("estimates.json");
    let median = read(&path)?["median"]["point_estimate"]
        .as_f64()
        .ok_or_else(|| wrong(&path, "has no median"))?;
    Ok((case.to_owned(), who.to_owned(), median))
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(of).map_err(|source| file(of, source))? {
        let path = entry.map_err(|source| file(of, source))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_where_criterion_keeps_them_and_none_is_an_error() {
        let root = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let new = root.join("p2c_100/tower/new");
        fs::create_dir_all(&new).unwrap();
        fs::create_dir_all(root.join("report")).unwrap();
        let none = Results::default().add_measured(&root.join("report"));
        fs::write(
            new.join("benchmark.json"),
            r#"{"function_id":"p2c_100","value_str":"tower"}"#,
        )
        .unwrap();
        fs::write(
            new.join("estimates.json"),
            r#"{"median":{"point_estimate":212.5}}"#,
        )
        .unwrap();
        let mut found = Results::default();
        found.add_measured(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(matches!(none, Err(Failure::Result { .. })));
        assert_eq!(found.units["ns"]["p2c_100"]["tower"], 212.5);
    }

    #[test]
    fn a_json_row_keeps_ours_apart_from_the_peers_and_says_the_unit() {
        let mut results = Results::default();
        results.add("ns", "p2c/100", "ours", 9.25);
        results.add("ns", "p2c/100", "tower", 212.0);
        let counted = json!({"unit": "allocations", "case": "pick", "who": "ours", "value": 0.0});
        results.add_counted(&[counted]).unwrap();
        let expected = [
            json!({"bench": "balance", "case": "pick", "ours_allocations": 0.0, "peers": {}}),
            json!({"bench": "balance", "case": "p2c/100", "ours_ns": 9.25, "peers": {"tower": 212.0}}),
        ];
        assert_eq!(results.json_rows("balance"), expected);
    }

    #[test]
    fn rows_of_another_program_join_those_of_the_same_case_and_a_malformed_one_is_refused() {
        let row =
            |who, value| json!({"unit": "bytes", "case": "memory", "who": who, "value": value});
        let mut results = Results::default();
        results.add_counted(&[row("ours", 100.0)]).unwrap();
        results.add_counted(&[row("pingora", 200.0)]).unwrap();
        assert_eq!(results.units["bytes"]["memory"].len(), 2);
        let malformed = results.add_counted(&[json!({"case": "memory"})]);
        assert!(matches!(malformed, Err(Failure::Result { .. })));
    }
}
