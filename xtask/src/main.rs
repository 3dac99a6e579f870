//! `cargo xtask setup|test|ci|bench`: the commands that a developer of this workspace needs.

mod bench;
mod run;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ha_testbed::setup::{self, Tool};

use crate::run::{Failure, Step};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Developer commands of the workspace"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find the servers that the tests start (PostgreSQL, Patroni, etcd, Redis, Sentinel) and install what is missing.
    Setup,
    /// Set up, then run every test of the workspace: unit, scenario and documentation tests.
    Test {
        /// Threads that run tests at once (default: as many as cores).
        #[arg(long)]
        test_threads: Option<usize>,
        /// Only tests whose name contains this, and anything after `--` for the test binaries.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Everything that must pass before a change lands: format, lints, docs, features, tests.
    Ci,
    /// Run benchmarks beside their peers and print a table.
    Bench {
        /// Which benchmark (default: all).
        #[arg(value_parser = bench::NAMES)]
        name: Option<String>,
        /// Also write the rows as JSON to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<std::path::PathBuf>,
        /// With `db` or `session`: what clients see while its servers are broken in some thirty ways (about twenty minutes), or some ten
        /// (about ten).
        #[arg(long)]
        faults: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Setup => set_up(),
        Command::Test { test_threads, rest } => set_up().and_then(|()| test(test_threads, &rest)),
        Command::Ci => ci(),
        Command::Bench { name, json, faults } => bench::run(&bench::Order {
            name: name.as_deref(),
            json_file: json.as_deref(),
            faults,
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}

fn set_up() -> Result<(), Failure> {
    setup::ensure(&Tool::ALL).map_err(|error| Failure::Setup(error.to_string()))
}

fn test(threads: Option<usize>, rest: &[String]) -> Result<(), Failure> {
    let mut step = Step::cargo(
        "test",
        ["test", "--workspace", "--all-features", "--no-fail-fast"],
    );
    let split = rest.iter().position(|arg| arg == "--");
    let (filters, harness) = match split {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    step = step.args(filters).args(["--"]).args(harness);
    if let Some(threads) = threads {
        step = step.args([format!("--test-threads={threads}")]);
    }
    step.run()
}

fn ci() -> Result<(), Failure> {
    set_up()?;
    Step::cargo("format", ["fmt", "--all", "--", "--check"]).run()?;
    Step::cargo(
        "clippy",
        ["clippy", "--workspace", "--all-targets", "--all-features"],
    )
    .args(["--", "-D", "warnings"])
    .run()?;
    // A feature that only builds beside another one is broken for whoever asks for it alone.
    for (package, features) in workspace::features()? {
        for feature in std::iter::once("").chain(features.iter().map(String::as_str)) {
            let label = format!("check {package} with only [{feature}]");
            Step::cargo(&label, ["check", "-p", &package, "--no-default-features"])
                .args(["--features", feature])
                .run()?;
        }
    }
    Step::cargo(
        "docs",
        ["doc", "--workspace", "--all-features", "--no-deps"],
    )
    .env("RUSTDOCFLAGS", "-D warnings")
    .run()?;
    loom()?;
    fuzz()?;
    Step::cargo("cargo xtask test", ["xtask", "test"]).run()
}

/// What is hand-made of atomics, in every order in which two threads can get there.
fn loom() -> Result<(), Failure> {
    Step::cargo("loom", ["test", "-p", "ha-core", "--release", "--lib"])
        // A target directory of its own: other flags would make every other step build anew.
        .args(["--target-dir", "target/loom", "--", "loom"])
        .env("RUSTFLAGS", "--cfg ha_loom")
        // Two threads on one word show all that they can do within three, in seconds.
        .env("LOOM_MAX_PREEMPTIONS", "3")
        .run()
}

/// How long each fuzz target runs.
const FUZZ_SECONDS: &str = "30";

/// What reads bytes from outside, fed with bytes. With nightly and cargo-fuzz that is guided by coverage; without, the same entry
/// points are fed with mutations of what they write themselves.
fn fuzz() -> Result<(), Failure> {
    let guided = Step::rustup_cargo("look for cargo-fuzz", ["+nightly", "fuzz", "--version"]);
    if guided.output().is_err() {
        eprintln!(
            "    no nightly toolchain with cargo-fuzz here (rustup toolchain install nightly; cargo install cargo-fuzz): \
             the targets run in process, without coverage"
        );
        let args = [
            "test",
            "-p",
            "ha-session",
            "--all-features",
            "--test",
            "fuzz",
        ];
        return Step::cargo("fuzz in process", args)
            .env("HA_FUZZ_SECONDS", FUZZ_SECONDS)
            .run();
    }
    for target in ["cookie", "record"] {
        let args = [
            "+nightly",
            "fuzz",
            "run",
            "--fuzz-dir",
            "ha-session/fuzz",
            target,
        ];
        Step::rustup_cargo(&format!("fuzz {target}"), args)
            .args(["--", &format!("-max_total_time={FUZZ_SECONDS}")])
            .run()?;
    }
    Ok(())
}
