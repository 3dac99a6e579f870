//! See the library's documentation.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    ha_cluster::commands::run(ha_cluster::cli::Cli::parse())
}
