//! Runs the criterion benches and puts each result of ours beside its peers'.
//!
//! The benches name their functions `BenchmarkId::new(CASE, WHO)` in a group named after the bench, where `WHO` is `ours` or a
//! peer; criterion keeps each result in a folder `BENCH/CASE/WHO`. A load test is no criterion bench: it prints its own table and
//! writes its own rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::run::{Failure, Step};
use crate::workspace;

/// The benches that exist, one file or folder each in `benches/benches`.
pub(crate) const NAMES: [&str; 4] = ["balance", "breaker", "hash", "tail"];
/// Those among them that write their rows to the file given by `--rows`.
const LOAD_TESTS: [&str; 1] = ["tail"];

const OURS: &str = "ours";

/// Median nanoseconds by who ran, for one case.
type Row = BTreeMap<String, f64>;

pub(crate) fn run(name: Option<&str>, json_file: Option<&Path>) -> Result<(), Failure> {
    let target = workspace::target_directory()?;
    let mut rows = Vec::new();
    for bench in NAMES
        .iter()
        .filter(|bench| name.is_none_or(|n| n == **bench))
    {
        if LOAD_TESTS.contains(bench) {
            rows.extend(load_test(bench, &target)?);
            continue;
        }
        let results = target.join("criterion").join(bench);
        // Results of an earlier run would pass for results of this one.
        if results.exists() {
            fs::remove_dir_all(&results).map_err(|source| file(&results, source))?;
        }
        Step::cargo(
            &format!("bench {bench}"),
            ["bench", "-p", "ha-benches", "--bench", bench],
        )
        .run()?;
        let cases = collect(&results)?;
        print!("{}", table(bench, &cases));
        rows.extend(cases.iter().map(|(case, row)| json_row(bench, case, row)));
    }
    if let Some(path) = json_file {
        let text = format!("{:#}\n", Value::Array(rows));
        fs::write(path, text).map_err(|source| file(path, source))?;
    }
    Ok(())
}

fn load_test(bench: &str, target: &Path) -> Result<Vec<Value>, Failure> {
    let name = format!("{bench}-rows.json");
    let path = target.join(&name);
    // As above: rows of an earlier run must not pass for rows of this one.
    if path.exists() {
        fs::remove_file(&path).map_err(|source| file(&path, source))?;
    }
    let step = [
        "bench",
        "-p",
        "ha-benches",
        "--bench",
        bench,
        "--",
        "--rows",
    ];
    Step::cargo(&format!("bench {bench}"), step)
        .args([&path])
        .run()?;
    match read(target, &name)? {
        (_, Value::Array(rows)) => Ok(rows),
        (path, _) => Err(wrong(&path, "is no list of rows")),
    }
}

fn file(path: &Path, source: std::io::Error) -> Failure {
    Failure::File {
        path: path.display().to_string(),
        source,
    }
}

/// Reads every result under a group's folder.
fn collect(results: &Path) -> Result<BTreeMap<String, Row>, Failure> {
    let mut cases = BTreeMap::<String, Row>::new();
    for case in folders(results)? {
        for who in folders(&case)? {
            let new = who.join("new");
            if !new.is_dir() {
                continue; // a report
            }
            let (path, benchmark) = read(&new, "benchmark.json")?;
            let (Some(case), Some(who)) = (
                benchmark["function_id"].as_str(),
                benchmark["value_str"].as_str(),
            ) else {
                return Err(wrong(&path, "names no CASE and WHO"));
            };
            let (path, estimates) = read(&new, "estimates.json")?;
            let median = estimates["median"]["point_estimate"]
                .as_f64()
                .ok_or_else(|| wrong(&path, "has no median"))?;
            let row = cases.entry(case.to_owned()).or_default();
            row.insert(who.to_owned(), median);
        }
    }
    if cases.is_empty() {
        return Err(wrong(results, "holds no result"));
    }
    Ok(cases)
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

fn read(folder: &Path, name: &str) -> Result<(PathBuf, Value), Failure> {
    let path = folder.join(name);
    let text = fs::read(&path).map_err(|source| file(&path, source))?;
    let value = serde_json::from_slice(&text).map_err(|error| wrong(&path, &error.to_string()))?;
    Ok((path, value))
}

fn wrong(path: &Path, what: &str) -> Failure {
    Failure::Result {
        path: path.display().to_string(),
        what: what.to_owned(),
    }
}

fn json_row(bench: &str, case: &str, row: &Row) -> Value {
    let peers: BTreeMap<_, _> = row.iter().filter(|(who, _)| *who != OURS).collect();
    json!({"bench": bench, "case": case, "ours_ns": row.get(OURS), "peers": peers})
}

/// One line per case, one column per contender, median ns.
fn table(bench: &str, cases: &BTreeMap<String, Row>) -> String {
    let mut columns: Vec<&str> = cases
        .values()
        .flat_map(|row| row.keys())
        .map(String::as_str)
        .collect();
    columns.sort_unstable_by_key(|who| (*who != OURS, *who));
    columns.dedup();
    let first = cases
        .keys()
        .map(String::len)
        .chain([bench.len()])
        .max()
        .unwrap_or(0);
    let mut out = format!("\n{bench:first$}");
    for who in &columns {
        out += &format!("  {who:>12}");
    }
    out += "   (median ns per call)\n";
    for (case, row) in cases {
        out += &format!("{case:first$}");
        for who in &columns {
            let width = who.len().max(12);
            match row.get(*who) {
                Some(ns) => out += &format!("  {ns:>width$.1}"),
                None => out += &format!("  {:>width$}", "-"),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cases() -> BTreeMap<String, Row> {
        let row = Row::from([("ours".into(), 9.25), ("tower".into(), 212.0)]);
        let alone = Row::from([("ours".into(), 10.0)]);
        BTreeMap::from([("p2c/100".into(), row), ("rr/100".into(), alone)])
    }

    #[test]
    fn ours_is_the_first_column_and_a_missing_peer_is_a_dash() {
        let table = table("balance", &cases());
        let lines: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][..3], ["balance", "ours", "tower"]);
        assert_eq!(lines[1], ["p2c/100", "9.2", "212.0"]);
        assert_eq!(lines[2], ["rr/100", "10.0", "-"]);
    }

    #[test]
    fn results_are_found_where_criterion_keeps_them_and_none_is_an_error() {
        let root = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let new = root.join("p2c_100/tower/new");
        fs::create_dir_all(&new).unwrap();
        fs::create_dir_all(root.join("report")).unwrap();
        let none = collect(&root.join("report"));
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
        let found = collect(&root);
        fs::remove_dir_all(&root).unwrap();
        assert!(matches!(none, Err(Failure::Result { .. })));
        assert_eq!(found.unwrap()["p2c_100"]["tower"], 212.5);
    }

    #[test]
    fn a_json_row_keeps_ours_apart_from_the_peers() {
        let row = json_row("balance", "p2c/100", &cases()["p2c/100"]);
        assert_eq!(
            row,
            json!({"bench": "balance", "case": "p2c/100", "ours_ns": 9.25, "peers": {"tower": 212.0}})
        );
    }
}
