//! `docs/session-faults.md`: what stands there between two marks is written here, and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ha_testbed::setup::{self, Tool};

use crate::Outcome;
use crate::table::Table;

const BEGIN: &str = "<!-- written by cargo xtask bench session --faults -->\n";
const END: &str = "<!-- end of what the bench writes -->";
const PEERS: [&str; 5] = [
    "tower-sessions",
    "tower-sessions-redis-store",
    "fred",
    "tower-sessions-sqlx-store",
    "sqlx",
];

/// Where a table was read, and of what.
#[derive(Debug)]
pub(crate) struct Reading {
    machine: String,
    servers: String,
    peers: String,
    optimised: bool,
}

impl Reading {
    pub(crate) fn begin() -> Outcome<Self> {
        Ok(Self {
            machine: machine(),
            servers: servers()?,
            peers: peers()?,
            optimised: !cfg!(debug_assertions),
        })
    }

    pub(crate) fn text(&self) -> String {
        let built = if self.optimised {
            "with optimisation"
        } else {
            "without optimisation"
        };
        format!(
            "Read by `cargo xtask bench session --faults`, built {built}, on {}.\nServers: {}.\nPeers: {}.\n",
            self.machine, self.servers, self.peers
        )
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let load = fs::read_to_string("/proc/loadavg").ok().and_then(|text| {
        let load = text.split(' ').next()?;
        Some(format!(", load average {load} at the beginning"))
    });
    let (os, cpu) = (std::env::consts::OS, std::env::consts::ARCH);
    let processor = processor.unwrap_or_else(|| cpu.to_owned());
    format!(
        "{cores} cores ({processor}, {os}){}",
        load.unwrap_or_default()
    )
}

/// The first line of what each server says of itself.
fn servers() -> Outcome<String> {
    let tools = [Tool::Postgres, Tool::Patroni, Tool::Redis, Tool::HaProxy];
    let versions = tools.into_iter().map(|tool| {
        let flag = if tool == Tool::HaProxy {
            "-v"
        } else {
            "--version"
        };
        let program = setup::find(tool).ok_or_else(|| format!("there is no {tool}"))?;
        let output = Command::new(program).arg(flag).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_whitespace()
            .map(|word| word.trim_start_matches("v="))
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        Outcome::Ok(format!(
            "{tool} {}",
            version.unwrap_or("of unknown version")
        ))
    });
    Ok(versions.collect::<Outcome<Vec<_>>>()?.join(", "))
}

/// The versions that the workspace is locked to.
fn peers() -> Outcome<String> {
    let lock = fs::read_to_string(workspace().join("Cargo.lock"))?;
    let versions = PEERS.map(|peer| {
        let name = format!("name = \"{peer}\"\nversion = \"");
        let found = lock.match_indices(&name).map(|(at, _)| {
            let rest = &lock[at + name.len()..];
            rest.split('"').next().unwrap_or_default()
        });
        // The trait that the published stores are for.
        let of_the_stores =
            |version: &&str| peer != "tower-sessions" || version.starts_with("0.14.");
        let version = found.filter(of_the_stores).last();
        format!("{peer} {}", version.unwrap_or("of unknown version"))
    });
    Ok(versions.join(", "))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Puts a table in the place of the one before.
pub(crate) fn write(reading: &Reading, table: &Table) -> Outcome<()> {
    let path = workspace().join("docs/session-faults.md");
    let page = fs::read_to_string(&path)?;
    let (before, rest) = page
        .split_once(BEGIN)
        .ok_or_else(|| format!("{} has no {BEGIN:?}", path.display()))?;
    let (_, after) = rest
        .split_once(END)
        .ok_or_else(|| format!("{} has no {END:?}", path.display()))?;
    let page = format!(
        "{before}{BEGIN}\n{}\n{}\n{END}{after}",
        reading.text(),
        table.markdown()
    );
    // As a whole or not at all.
    let next = path.with_extension("md.next");
    fs::write(&next, page)?;
    Ok(fs::rename(next, path)?)
}
