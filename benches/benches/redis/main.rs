//! What a fault of Redis costs a service that writes to it: how long no write is acknowledged, which acknowledged writes are gone afterwards,
//! and what became of those whose outcome nobody knew.
//!
//! Four writers for each contender increment fresh keys, 5 ms apart, all at the same servers in the same run. Ours: `redis::Connection` as it is
//! by default, with `WAIT 1` behind each write, and with one setting changed at a time. Beside it what the driver offers: its
//! `ConnectionManager` at the node that the Sentinels named when it was made, the same with `WAIT 1`, its `SentinelClient` asked again after every
//! error, and its `ClusterConnection`. The fault comes once all of them write. When the servers have agreed on a new master, and the old one
//! is its replica again or gone, every key is looked for there: a fresh key has been incremented once, twice, or not at all.
//!
//! `cargo xtask bench redis` runs all cases twice; `cargo bench -p ha-benches --bench redis -- kill` runs those whose names have one of
//! these words in them.
#![allow(missing_docs, clippy::unwrap_used)]

mod contenders;
mod faults;
mod report;
mod writers;

use ha_benches::Arguments;
use report::Report;

const ROUNDS: usize = 2;

fn main() -> std::io::Result<()> {
    let arguments = Arguments::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::default();
    for case in faults::ALL
        .iter()
        .filter(|case| arguments.want(case.name()))
    {
        for round in 1..=ROUNDS {
            eprintln!("{}, {round} of {ROUNDS}", case.name());
            let (version, outages) = runtime.block_on(faults::run(*case));
            report.add(case.name(), version, outages);
        }
    }
    print!("{report}");
    arguments.write(report.rows())
}
