//! Runs the criterion benches and puts each result of ours beside its peers'.
//!
//! The benches name their functions `BenchmarkId::new(CASE, WHO)` in a group named after the bench, where `WHO` is `ours` or a
//! peer; criterion keeps each result in a folder `BENCH/CASE/WHO`. Benches that count, and load tests, are no criterion benches: they
//! write a file. Peers that are too big for the workspace have one of their own, whose results go into the same folders.

mod peers;
mod results;
mod table;

use std::fs;
use std::path::Path;

use serde_json::Value;

use self::peers::Peers;
use self::results::Results;
use crate::run::{Failure, Step};
use crate::workspace;

/// The benches that exist, one file or folder each in `benches/benches`.
pub(crate) const NAMES: [&str; 13] = [
    "balance", "breaker", "db", "hash", "hedge", "limit", "overload", "redis", "retry", "session",
    "shed", "storm", "tail",
];
/// Those among them that print their own table and write their own rows.
const LOAD_TESTS: [&str; 6] = ["db", "overload", "redis", "session", "storm", "tail"];
/// Those that have a `BENCH_memory` beside them, which counts.
const COUNTED: [&str; 1] = ["balance"];
/// Those that have peers in the other workspace.
const WITH_PEERS: [&str; 2] = ["balance", "hash"];

/// Those whose servers can be broken instead of measured.
const WITH_FAULTS: [&str; 2] = ["db", "session"];

/// What to run, and where to.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) json_file: Option<&'a Path>,
    /// Only for one of [`WITH_FAULTS`].
    pub(crate) faults: bool,
}

pub(crate) fn run(order: &Order<'_>) -> Result<(), Failure> {
    let Order {
        name,
        json_file,
        faults,
    } = *order;
    if faults && !name.is_some_and(|name| WITH_FAULTS.contains(&name)) {
        let name = name.unwrap_or("all");
        let those = WITH_FAULTS.join("` or `bench ");
        return Err(Failure::Setup(format!(
            "--faults is for `bench {those}`, not for `bench {name}`"
        )));
    }
    let target = workspace::target_directory()?;
    let benches: Vec<_> = NAMES
        .into_iter()
        .filter(|bench| name.is_none_or(|name| name == *bench))
        .collect();
    // Built before anything is measured, so that all contenders of a bench run one right after the other.
    let peers = if benches.iter().any(|bench| WITH_PEERS.contains(bench)) {
        Peers::build(&target)
    } else {
        None
    };
    let mut rows = Vec::new();
    for bench in benches {
        if LOAD_TESTS.contains(&bench) {
            let own: &[&str] = if faults { &["--faults"] } else { &[] };
            rows.extend(written_rows(ours(bench), bench, &target, own)?);
            continue;
        }
        let peers = peers.as_ref().filter(|_| WITH_PEERS.contains(&bench));
        let results = measure(bench, &target, peers)?;
        print!("{}", table::render(bench, &results));
        rows.extend(results.json_rows(bench));
    }
    if let Some(path) = json_file {
        let text = format!("{:#}\n", Value::Array(rows));
        fs::write(path, text).map_err(|source| file(path, source))?;
    }
    Ok(())
}

fn measure(bench: &str, target: &Path, peers: Option<&Peers>) -> Result<Results, Failure> {
    let home = target.join("criterion");
    let folder = home.join(bench);
    // Results of an earlier run would pass for results of this one.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|source| file(&folder, source))?;
    }
    ours(bench).env("CRITERION_HOME", &home).run()?;
    if let Some(peers) = peers {
        peers.bench(bench).env("CRITERION_HOME", &home).run()?;
    }
    let mut results = Results::default();
    results.add_measured(&folder)?;
    if COUNTED.contains(&bench) {
        let bench = format!("{bench}_memory");
        results.add_counted(&written_rows(ours(&bench), &bench, target, &[])?)?;
        if let Some(peers) = peers {
            results.add_counted(&written_rows(peers.bench(&bench), &bench, target, &[])?)?;
        }
    }
    Ok(results)
}

fn ours(bench: &str) -> Step {
    let args = ["bench", "-p", "ha-benches", "--bench", bench];
    Step::cargo(&format!("bench {bench}"), args)
}

/// Runs a bench that writes its rows to the file given by `--rows`, with arguments of its own.
fn written_rows(
    step: Step,
    bench: &str,
    target: &Path,
    own: &[&str],
) -> Result<Vec<Value>, Failure> {
    let path = target.join(format!("{bench}-rows.json"));
    // As above: rows of an earlier run must not pass for rows of this one.
    if path.exists() {
        fs::remove_file(&path).map_err(|source| file(&path, source))?;
    }
    step.args(["--", "--rows"]).args([&path]).args(own).run()?;
    match read(&path)? {
        Value::Array(rows) => Ok(rows),
        _ => Err(wrong(&path, "is no list of rows")),
    }
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = fs::read(path).map_err(|source| file(path, source))?;
    serde_json::from_slice(&text).map_err(|error| wrong(path, &error.to_string()))
}

fn file(path: &Path, source: std::io::Error) -> Failure {
    Failure::File {
        path: path.display().to_string(),
        source,
    }
}

fn wrong(path: &Path, what: &str) -> Failure {
    Failure::Result {
        path: path.display().to_string(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_refused_where_there_are_none_before_anything_is_built() {
        for name in [None, Some("tail")] {
            let order = Order {
                name,
                json_file: None,
                faults: true,
            };
            let refused = run(&order).map_err(|failure| failure.to_string());
            let name = name.unwrap_or("all");
            let expected =
                format!("--faults is for `bench db` or `bench session`, not for `bench {name}`");
            assert_eq!(refused, Err(expected));
        }
    }
}
