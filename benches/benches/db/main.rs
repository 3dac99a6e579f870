//! What the PostgreSQL router costs and what it is worth, beside the other ways to use a primary and its replicas: bare
//! deadpool-postgres, a policy as GitLab's, and connection strings with several hosts as libpq has them.
//!
//! - `checkout`: what it takes to be lent a connection, in time, allocations and statements; what a probe costs a node.
//! - `reads`: clients that write and read at once what they wrote: stale reads, the share of the replicas, waits.
//! - `gap`: how long writes stop when the primary is killed or handed over, and how much of it is not the server's promotion.
//! - `own`: reads of own writes with the token minted in one process and the read in another, and the same without a token.
//! - `--faults`: what clients see of each of some thirty faults, ours beside libpq's on the same servers at the same time.
//!
//! `cargo xtask bench db` runs the first four, `cargo xtask bench db --faults` the last; `cargo bench -p ha-benches --bench db --
//! checkout` runs one of them, with `--faults` those faults in whose names one of the words is. `--quick` does less of each.
#![allow(missing_docs, clippy::unwrap_used)]

mod app;
mod bare;
mod bed;
mod checkout;
mod faults;
mod gap;
mod gitlab;
mod libpq;
mod ours;
mod own;
mod patroni;
mod pools;
mod promoted;
mod reads;
mod report;
mod stage;
mod table;
mod workload;

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ha_testbed::setup::{self, Tool};
use report::Report;
use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use table::Table;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// No run begins anything new after this. A fault that has begun takes less than a minute more.
const LONGEST: Duration = Duration::from_secs(23 * 60);

/// What to run, and how much of it.
#[derive(Debug)]
pub(crate) struct Words {
    begun: Instant,
    only: Vec<String>,
    /// Patroni's switchovers and failovers, each.
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    /// Reads of own writes from another process.
    pub(crate) checks: u64,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            only: Vec::new(),
            rounds: 0,
            quick: false,
            checks: 0,
        }
    }
}

impl Words {
    pub(crate) fn only(name: &str, rounds: usize) -> Self {
        Self {
            only: vec![name.to_owned()],
            rounds,
            ..Self::default()
        }
    }

    /// Whether there is time for more; says so when there is not.
    pub(crate) fn goes_on(&self, name: &str) -> bool {
        let goes_on = self.begun.elapsed() < LONGEST;
        if !goes_on {
            eprintln!("{name:<50} left out: {LONGEST:?} are over");
        }
        goes_on
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(&**word))
    }
}

#[derive(Debug, Default)]
struct Arguments {
    rows: Option<PathBuf>,
    faults: bool,
    words: Words,
}

impl Arguments {
    /// `--rows FILE`, `--faults`, `--quick`, `--checks NUMBER` and words; other flags are cargo's.
    fn read() -> Outcome<Self> {
        let mut read = Self::default();
        let mut args = std::env::args().skip(1);
        let mut checks = None;
        while let Some(arg) = args.next() {
            match &*arg {
                "--rows" => read.rows = args.next().map(PathBuf::from),
                "--faults" => read.faults = true,
                "--quick" => read.words.quick = true,
                "--checks" => {
                    let value = args.next().unwrap_or_default();
                    let number = value.parse();
                    checks =
                        Some(number.map_err(|_| format!("--checks is {value:?}, not a number"))?);
                }
                word if word.starts_with('-') => {}
                _ => read.words.only.push(arg),
            }
        }
        let quick = read.words.quick;
        read.words.rounds = if quick { 2 } else { 20 };
        read.words.checks = checks.unwrap_or(if quick { 10_000 } else { 100_000 });
        Ok(read)
    }
}

fn main() -> ExitCode {
    let outcome = match own::Reader::of_arguments() {
        Some(reader) => reader.run(),
        None => measure(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("db: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Outcome<()> {
    let Arguments {
        rows: file,
        faults,
        words,
    } = Arguments::read()?;
    if words.quick && cfg!(debug_assertions) {
        eprintln!("without optimisation: no figure of time means anything");
    }
    let tools = [Tool::Postgres, Tool::Patroni, Tool::Etcd, Tool::PythonEtcd];
    setup::ensure(&tools)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let rows = if faults {
        let mut table = Table::default();
        let done = runtime.block_on(faults::run(&words, &mut table));
        // What has been seen is shown even if the rest could not be.
        println!("\n{table}");
        done?;
        table.rows()
    } else {
        let mut report = Report::default();
        if words.wants("checkout") {
            checkout::run(&words, &mut report)?;
        }
        let rest = async {
            if words.wants("reads") {
                reads::run(&words, &mut report).await?;
            }
            if words.wants("gap") {
                gap::run(&words, &mut report).await?;
            }
            if words.wants("own") {
                own::run(&words, &mut report).await?;
            }
            Outcome::Ok(())
        };
        runtime.block_on(rest)?;
        print!("{report}");
        report.rows()
    };
    if let Some(path) = file {
        std::fs::write(path, format!("{:#}\n", Value::Array(rows)))?;
    }
    Ok(())
}
