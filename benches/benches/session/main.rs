//! What sessions cost and what faults do to them, beside tower-sessions 0.14 with its Redis and its sqlx store on the same servers in the
//! same run.
//!
//! - `costs`: commands, statements, cookies, time and throughput of a request, by what it does with its session.
//! - `expired`: what a million expired rows, and those who delete them, do to the requests beside them.
//! - `--faults`: what users that are signed in see of each of some faults. A whole run writes its table into `docs/session-faults.md`.
//!
//! `cargo xtask bench session` runs the first two, `cargo xtask bench session --faults` the last; `cargo bench -p ha-benches --bench
//! session -- costs` runs one of them, with `--faults` those faults in whose names one of the words is. `--quick` does less of each.
#![allow(missing_docs, clippy::unwrap_used)]

mod app;
mod costs;
mod count;
mod expired;
mod faults;
mod page;
mod stage;
mod stores;
mod table;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ha_testbed::setup::{self, Tool};
use serde_json::Value;
use table::Table;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long any step of a measurement may take.
const LIMIT: Duration = Duration::from_secs(60);
/// No run begins another fault after this. One that has begun takes less than two minutes more.
const LONGEST: Duration = Duration::from_secs(13 * 60);

/// What to run, and how much of it.
#[derive(Debug)]
pub(crate) struct Words {
    begun: Instant,
    only: Vec<String>,
    pub(crate) quick: bool,
}

impl Words {
    /// Whether there is time for more; says so when there is not.
    pub(crate) fn goes_on(&self, name: &str) -> bool {
        let goes_on = self.begun.elapsed() < LONGEST;
        if !goes_on {
            eprintln!("{name:<40} left out: {LONGEST:?} are over");
        }
        goes_on
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|word| name.contains(&**word))
    }

    /// Whether all of it was asked for.
    fn is_whole(&self) -> bool {
        !self.quick && self.only.is_empty()
    }
}

#[derive(Debug)]
struct Arguments {
    rows: Option<PathBuf>,
    faults: bool,
    words: Words,
}

impl Arguments {
    /// `--rows FILE`, `--faults`, `--quick` and words; other flags are cargo's.
    fn read() -> Self {
        let mut read = Self {
            rows: None,
            faults: false,
            words: Words {
                begun: Instant::now(),
                only: Vec::new(),
                quick: false,
            },
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match &*arg {
                "--rows" => read.rows = args.next().map(PathBuf::from),
                "--faults" => read.faults = true,
                "--quick" => read.words.quick = true,
                word if word.starts_with('-') => {}
                word => read.words.only.push(word.to_lowercase()),
            }
        }
        read
    }
}

/// The smallest value that so many of all do not exceed.
pub(crate) fn quantile<T: Ord + Copy>(values: &[T], quantile: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("session: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Outcome<()> {
    let Arguments {
        rows: file,
        faults,
        words,
    } = Arguments::read();
    if cfg!(debug_assertions) {
        eprintln!("without optimisation: no figure of time means anything");
    }
    setup::ensure(&Tool::ALL)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let rows = if faults {
        let reading = page::Reading::begin()?;
        let mut table = Table::default();
        let done = runtime.block_on(faults::run(&words, &mut table));
        // What has been seen is shown even if the rest could not be.
        println!("\n{}\n{}", reading.text(), table.markdown());
        done?;
        if words.is_whole() {
            page::write(&reading, &table)?;
        }
        table.rows()
    } else {
        let mut rows = Vec::new();
        if words.wants("costs") {
            let costs = runtime.block_on(costs::run(&words))?;
            println!("\n{}\n{}", costs.table(), costs.legend());
            rows.extend(costs.rows());
        }
        if words.wants("expired") {
            let expired = runtime.block_on(expired::run(&words))?;
            println!("\n{}", expired.table());
            rows.extend(expired.rows());
        }
        rows
    };
    if let Some(path) = file {
        std::fs::write(path, format!("{:#}\n", Value::Array(rows)))?;
    }
    Ok(())
}
