//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cluster::Defence;
use crate::{app, edge};

/// A highly available web service on this machine, made of real servers, to look at and to break.
#[derive(Debug, Parser)]
#[command(name = "cargo cluster", version, max_term_width = 110)]
pub struct Cli {
    /// Where the cluster keeps its state [default: target/cluster of this workspace]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
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
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Kill a part (SIGKILL), as if its machine lost power
    Kill {
        /// Which part, for example app-1 or pg-2
        name: String,
    },
    /// Freeze a part (SIGSTOP): it is there and does not answer
    Stop {
        /// Which part
        name: String,
    },
    /// Start a killed part again, or let a frozen one go on
    Start {
        /// Which part
        name: String,
    },
    /// Show what a part has logged
    Logs {
        /// Which part
        name: String,
        /// Go on as more is logged
        #[arg(short, long)]
        follow: bool,
        /// How many lines from the end
        #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
        lines: usize,
    },
    /// Break one part after the other under load and check that nothing was lost
    Drill(crate::drill::Args),
    /// Stop the cluster; also cleans up after one that crashed
    Down,
    /// Run one load balancer by itself
    Edge(edge::Args),
    /// Run one app server by itself
    App(app::Args),
}

/// What `up` takes.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// App servers
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub apps: u8,
    /// Edges
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub edges: u8,
    /// PostgreSQL replicas beside the primary
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    pub replicas: u8,
    /// The port of every edge [default: 8080 or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Run with a defence switched off, to see what it is good for
    #[arg(long, value_enum, value_name = "DEFENCE")]
    pub without: Vec<Defence>,
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
}
