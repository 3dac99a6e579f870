//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cluster::Defence;
use crate::{app, edge};

/// A highly available web service on this machine, made of real servers, to look at and to break.
#[derive(Debug, Parser)]
#[command(
    name = "cargo cluster",
    bin_name = "cargo cluster",
    version,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Start everything, print the addresses and run until Ctrl-C or `down`
    Up(UpArgs),
    /// Show what every part is doing
    Status(StatusArgs),
    /// Kill a part (SIGKILL), as if its machine lost power
    Kill(PartArgs),
    /// Freeze a part (SIGSTOP): it is there and does not answer
    Stop(PartArgs),
    /// Start a killed part again, or let a frozen one go on
    Start(PartArgs),
    /// Show what a part has logged
    Logs(LogsArgs),
    /// Break one part after the other under load and check that nothing was lost
    Drill(crate::drill::Args),
    /// Stop the cluster; also cleans up after one that crashed
    Down(At),
    /// Run one load balancer by itself
    Edge(edge::Args),
    /// Run one app server by itself
    App(app::Args),
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// Where the cluster keeps its state [default: target/cluster of this workspace]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What `up` takes.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// App servers, 1 to 9
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub apps: u8,
    /// Edges, 1 to 9: each on a loopback address of its own
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub edges: u8,
    /// PostgreSQL replicas beside the primary, 0 to 4
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    pub replicas: u8,
    /// The port of every edge, 1 to 65535 [default: 8080 or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Run with a defence switched off, to see what it is good for; may be repeated
    #[arg(long, value_enum, value_name = "DEFENCE")]
    pub without: Vec<Defence>,
    /// Which cluster.
    #[command(flatten)]
    pub at: At,
}

/// What `status` takes.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// As JSON, instead of a table
    #[arg(long)]
    pub json: bool,
    /// Which cluster.
    #[command(flatten)]
    pub at: At,
}

/// What the commands take that act on one part.
#[derive(Debug, Clone, Args)]
pub struct PartArgs {
    /// Which part, for example app-1 or pg-2; `status` lists them
    pub name: String,
    /// Which cluster.
    #[command(flatten)]
    pub at: At,
}

/// What `logs` takes.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Go on as more is logged, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines from the end
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
    pub lines: usize,
    /// Whose log.
    #[command(flatten)]
    pub part: PartArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn counts_out_of_range_are_refused_by_name_and_value() {
        for (flag, value) in [
            ("--apps", "0"),
            ("--edges", "10"),
            ("--replicas", "9"),
            ("--port", "0"),
            ("--apps", "x"),
        ] {
            let error = Cli::try_parse_from(["cluster", "up", flag, value])
                .unwrap_err()
                .to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn help_calls_the_program_as_it_is_called_and_names_dir_where_it_has_a_meaning() {
        for (command, has_dir) in [
            ("up", true),
            ("status", true),
            ("kill", true),
            ("stop", true),
            ("start", true),
            ("logs", true),
            ("down", true),
            ("drill", false),
            ("edge", false),
            ("app", false),
        ] {
            let help = Cli::try_parse_from(["cluster", command, "--help"])
                .unwrap_err()
                .to_string();
            let usage = format!("Usage: cargo cluster {command} ");
            assert!(help.contains(&usage), "{help}");
            assert_eq!(help.contains("--dir <DIR>"), has_dir, "{help}");
        }
    }
}
