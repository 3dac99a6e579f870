//! The bundled cluster: real PostgreSQL under Patroni, real Redis under Sentinel, app servers and load balancers, started
//! and broken by one command.
//!
//! ```sh
//! cargo cluster up            # starts everything, prints the addresses, runs until Ctrl-C
//! cargo cluster status        # in another terminal
//! cargo cluster kill pg-1     # the primary loses power; watch the notes stay
//! cargo cluster start pg-1
//! cargo cluster drill         # breaks one part after the other under load and judges
//! ```
//!
//! Every part is a process of its own. The edges and apps are this same program, run as `edge` and `app`; both are of use
//! by themselves. [`cluster::Cluster`] is the same thing as a library.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod control;
pub mod drill;
pub mod edge;
pub mod keys;
pub mod logs;
pub mod part;
pub mod port;
mod serve;
mod signals;
pub mod state;
pub mod status;
pub mod supervisor;

/// An error and what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        // Transparent errors repeat themselves.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}
