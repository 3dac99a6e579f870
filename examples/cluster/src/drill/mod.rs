//! The drill: breaks a cluster of its own, part by part, under load, and judges what users saw.
//!
//! ```sh
//! cargo cluster drill --quick              # at most four minutes
//! cargo cluster drill --seed 7 --json out.json
//! cargo cluster drill --quick --only primary-killed
//! cargo cluster drill --quick --without retry   # shows that the drill can fail
//! ```
//!
//! Eight users sign in, add notes, list them and look at their sessions, with a client that behaves like a browser: all
//! addresses of the name, the next one when a connection fails, cookies. Writes carry an `Idempotency-Key` and are tried
//! again under it for up to 30 s, as a web page would; a few writes carry none and are sent once. A read gets one pass
//! over the addresses and no more.
//!
//! # When it passes
//!
//! In every phase, all of these are zero:
//!
//! | | |
//! |---|---|
//! | failed reads | no right answer from any address |
//! | failed writes | with a key, and no success within 30 s |
//! | lost | acknowledged, and not on the primary at the end |
//! | duplicated | on the primary, or in a list, more than once; with or without a key |
//! | stale reads | a list or a session that lacks what this user had been told is stored, or had seen before |
//! | logged out | asked to sign in again, or taken for somebody else |
//! | phantoms | shown or stored though nobody wrote it, or shown, never acknowledged, and gone |
//!
//! and the users are served as before while the part is still broken, and the cluster is whole again after it has come
//! back. A write without a key may end unknown: it is counted and must not be there twice.
//!
//! # How hard it tries
//!
//! - Half of the users become somebody new just before each fault, so that it strikes fresh sessions.
//! - While one replica is dead, the other one's replay is held back for 300 ms, again and again.
//! - The Redis master dies with its last 700 ms of writes on no replica.
//! - The app that is going to answer wrongly says that it is not ready first, and the drill waits until no request
//!   reaches it any more (or, if some still do, six seconds). No check can save the requests before it has run.
//!
//! The same seed draws the same victims and delays.

mod browser;
mod error;
mod ledger;
mod report;
mod run;
mod schedule;
mod strike;
mod user;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use self::report::Report;
use self::run::Drill;
pub use self::schedule::Fault;
use self::schedule::Pace;
use crate::chain;
use crate::cluster::{Cluster, Defence, Options};
use crate::signals::Signals;

/// What `drill` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Shorter waits: at most four minutes
    #[arg(long)]
    pub quick: bool,
    /// Draws victims and moments, any whole number; the same one repeats them [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write the result to a file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only the phase of this fault; may be repeated [default: all]
    #[arg(long, value_enum, value_name = "FAULT")]
    pub only: Vec<Fault>,
    /// Run with a defence switched off, to see the drill fail; may be repeated
    #[arg(long, value_enum, value_name = "DEFENCE")]
    pub without: Vec<Defence>,
}

/// Nothing was broken.
const PASSED: u8 = 0;
/// A promise was broken.
const FAILED: u8 = 1;
/// The drill could not be carried out.
const REFUSED: u8 = 2;
/// Ctrl-C, as shells say it.
const INTERRUPTED: u8 = 130;

/// Runs the drill. The exit status is 0 when every promise was kept, 1 when one was broken, 2 when the drill could not be
/// carried out.
pub async fn run(args: Args) -> ExitCode {
    // First of all, so that no Ctrl-C after this line can leave anything behind.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return refuse(&format!("cannot wait for signals: {error}")),
    };
    // Before minutes are spent on a result that cannot be written.
    let json = match args.json.as_deref().map(create).transpose() {
        Ok(json) => json,
        Err(refusal) => return refuse(&refusal),
    };
    tokio::select! {
        outcome = drill(&args, json) => match outcome {
            Ok(status) => ExitCode::from(status),
            Err(refusal) => refuse(&refusal),
        },
        // Dropping the drill drops its cluster with every process.
        () = signals.any() => ExitCode::from(INTERRUPTED),
    }
}

fn refuse(refusal: &str) -> ExitCode {
    eprintln!("error: {refusal}");
    ExitCode::from(REFUSED)
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

async fn drill(args: &Args, json: Option<File>) -> Result<u8, String> {
    let began = Instant::now();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let pace = if args.quick { Pace::QUICK } else { Pace::FULL };
    let without: Vec<_> = args.without.iter().map(ToString::to_string).collect();
    println!("seed {seed}");
    for defence in &without {
        println!("without {defence}");
    }

    let options = Options::throwaway().without(args.without.iter().copied());
    let cluster = Cluster::launch(options, &|line| println!("          {line}"))
        .await
        .map_err(|error| format!("the cluster did not start: {}", chain(&error)))?;
    let drill = Drill::new(&cluster, pace);
    let outcome = async {
        drill.run(seed, &schedule::draw(seed, &args.only)).await?;
        drill.truth().await
    };
    let truth = outcome.await.map_err(|error| chain(&error));
    let report = truth
        .map(|truth| Report::judge(seed, &drill.ledger.settle(truth), without, began.elapsed()));
    drill.say("the cluster goes down");
    let down = cluster.shutdown().await.map_err(|error| chain(&error));

    let report = report?;
    println!("\n{}", report.table());
    if let Some(file) = json {
        write(file, &report)?;
    }
    down?;
    let took = began.elapsed().as_secs_f32();
    if report.passed {
        println!(
            "passed in {took:.0} s: no failed read, no failed keyed write, nothing lost, stale or applied twice, nobody logged out (seed {seed})"
        );
        return Ok(PASSED);
    }
    println!("FAILED in {took:.0} s (seed {seed}):");
    for broken in report.broken() {
        println!("  {broken}");
    }
    Ok(FAILED)
}

fn write(mut file: File, report: &Report) -> Result<(), String> {
    serde_json::to_writer_pretty(&mut file, report)
        .map_err(std::io::Error::from)
        .and_then(|()| file.write_all(b"\n"))
        .map_err(|error| format!("cannot write the result: {error}"))
}
