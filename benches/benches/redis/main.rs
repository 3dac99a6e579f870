//! What a fault of Redis costs a service that writes to it: how long no write is acknowledged, and which acknowledged writes are gone afterwards.
//!
//! Four writers for each contender set fresh keys, 2 ms apart, all at the same servers in the same run. Ours: `redis::Connection` as it is
//! by default, and with one setting changed at a time. Beside it what the driver offers: its `ConnectionManager` at the node that the Sentinels
//! named when it was made, and its `ClusterConnection`. The fault comes once all of them write. When the servers have agreed on a new
//! master, and the old one is its replica again or gone, everything that was acknowledged is looked for there.
//!
//! `cargo xtask bench redis` runs all cases three times; `cargo bench -p ha-benches --bench redis -- kill` runs those whose names have one of
//! these words in them.
#![allow(missing_docs, clippy::unwrap_used)]

mod contenders;
mod faults;
mod report;
mod writers;

use std::path::PathBuf;

use report::Report;

const ROUNDS: usize = 3;

fn main() -> std::io::Result<()> {
    let Arguments { rows, only } = Arguments::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::default();
    for case in faults::ALL {
        if !only.is_empty() && !only.iter().any(|word| case.name().contains(word.as_str())) {
            continue;
        }
        for round in 1..=ROUNDS {
            eprintln!("{}, {round} of {ROUNDS}", case.name());
            report.add(case.name(), runtime.block_on(faults::run(*case)));
        }
    }
    print!("{report}");
    if let Some(path) = rows {
        std::fs::write(path, report.rows())?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Arguments {
    rows: Option<PathBuf>,
    only: Vec<String>,
}

impl Arguments {
    /// `--rows FILE` and words; other flags are cargo's.
    fn read() -> Self {
        let mut read = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--rows" {
                read.rows = args.next().map(PathBuf::from);
            } else if !arg.starts_with('-') {
                read.only.push(arg);
            }
        }
        read
    }
}
