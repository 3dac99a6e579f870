//! What a cluster is made of, and what it does without.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cli::UpArgs;
use crate::part::Shape;
use crate::state::Place;

/// Something that keeps the service right when a part fails, and that can be left out to see what happens without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Defence {
    /// The edges send a request again, to another app, when the first one fails.
    Retry,
    /// The edges ask each app whether it is ready and leave out those that are not.
    Health,
    /// A client reads what it wrote: reads wait for its writes, or go to a node that has them.
    Causal,
    /// A write is on two nodes before it is acknowledged.
    Durable,
}

impl Defence {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Health => "health",
            Self::Causal => "causal",
            Self::Durable => "durable",
        }
    }
}

impl fmt::Display for Defence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an app is made to misbehave while its process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `/readyz` fails; what it answers is still right.
    Unready,
    /// `/readyz` fails, and reads are answered wrongly.
    Wrong,
    /// All is well again.
    None,
}

impl Fault {
    /// Its name in the path of the app's admin address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unready => "unready",
            Self::Wrong => "wrong",
            Self::None => "none",
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where the state goes; `None` is a temporary directory that goes away with the cluster.
    pub dir: Option<PathBuf>,
    /// App servers. Default 3.
    pub apps: usize,
    /// Edges. Default 2.
    pub edges: usize,
    /// PostgreSQL replicas beside the primary. Default 2: with one, the loss of it leaves nothing to be synchronous with.
    pub replicas: usize,
    /// The edges' port.
    pub port: Port,
    /// Defences that are switched off.
    pub without: Vec<Defence>,
    /// The program that is run as `edge` and `app`; `None` is this one.
    pub program: Option<PathBuf>,
}

/// How the edges' port is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Port {
    /// This one, or an error.
    Exactly(u16),
    /// 8080 or the next free one: an address that people remember.
    Friendly,
    /// Any free one.
    Any,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: None,
            apps: 3,
            edges: 2,
            replicas: 2,
            port: Port::Friendly,
            without: Vec::new(),
            program: None,
        }
    }
}

impl Options {
    /// A cluster in a temporary directory, on any free ports, beside whatever else runs.
    pub fn throwaway() -> Self {
        Self {
            port: Port::Any,
            ..Self::default()
        }
    }

    /// Leaves these defences out.
    #[must_use]
    pub fn without(mut self, defences: impl IntoIterator<Item = Defence>) -> Self {
        self.without.extend(defences);
        self
    }

    /// Runs this program as `edge` and `app`: for callers that are another program themselves.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// As the command line of `up` says.
    pub fn from_args(args: &UpArgs, place: &Place) -> Self {
        Self {
            dir: Some(place.dir().to_owned()),
            apps: args.apps.into(),
            edges: args.edges.into(),
            replicas: args.replicas.into(),
            port: args.port.map_or(Port::Friendly, Port::Exactly),
            without: args.without.clone(),
            program: None,
        }
    }

    /// The parts that come of it.
    pub fn shape(&self) -> Shape {
        Shape {
            edges: self.edges,
            apps: self.apps,
            postgres: self.replicas + 1,
            redis: 3,
            sentinels: 3,
        }
    }
}
