//! The parts of the cluster and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A load balancer in front of the apps.
    Edge,
    /// A stateless app server.
    App,
    /// A PostgreSQL server with the Patroni agent that watches it.
    Pg,
    /// The etcd member in which Patroni keeps the leader's lease.
    Etcd,
    /// A Redis server.
    Redis,
    /// A Redis Sentinel.
    Sentinel,
}

impl Kind {
    /// The part of a name before the dash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::App => "app",
            Self::Pg => "pg",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Sentinel => "sentinel",
        }
    }
}

/// One part: its kind and its number, from 1. Shows and parses as `app-2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Which one, from 1.
    pub number: usize,
}

impl Part {
    /// The part of this kind with this number (from 1).
    pub fn new(kind: Kind, number: usize) -> Self {
        Self { kind, number }
    }

    /// The part's place in a list of its kind, from 0.
    pub fn index(self) -> usize {
        self.number - 1
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.as_str(), self.number)
    }
}

/// The text is not of the form `kind-number`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a part")]
pub struct NotAName(String);

impl FromStr for Part {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let refused = || NotAName(text.to_owned());
        let (kind, number) = text.rsplit_once('-').ok_or_else(refused)?;
        let kind = match kind {
            "edge" => Kind::Edge,
            "app" => Kind::App,
            "pg" => Kind::Pg,
            "etcd" => Kind::Etcd,
            "redis" => Kind::Redis,
            "sentinel" => Kind::Sentinel,
            _ => return Err(refused()),
        };
        // `+1` and `01` would parse as numbers but are not how any name is written.
        if !number.bytes().all(|b| b.is_ascii_digit()) || number.starts_with('0') {
            return Err(refused());
        }
        let number = number.parse().map_err(|_| refused())?;
        Ok(Self { kind, number })
    }
}

/// How many of each kind a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Edges.
    pub edges: usize,
    /// App servers.
    pub apps: usize,
    /// PostgreSQL servers, the primary included.
    pub postgres: usize,
    /// Redis servers, the master included.
    pub redis: usize,
    /// Sentinels.
    pub sentinels: usize,
}

impl Shape {
    /// Every part, in the order in which a request meets them.
    pub fn parts(self) -> Vec<Part> {
        [
            (Kind::Edge, self.edges),
            (Kind::App, self.apps),
            (Kind::Pg, self.postgres),
            (Kind::Etcd, 1),
            (Kind::Redis, self.redis),
            (Kind::Sentinel, self.sentinels),
        ]
        .into_iter()
        .flat_map(|(kind, count)| (1..=count).map(move |number| Part::new(kind, number)))
        .collect()
    }

    /// The part with this name.
    ///
    /// # Errors
    /// [`UnknownName`], which lists the names there are.
    pub fn find(self, name: &str) -> Result<Part, UnknownName> {
        let parts = self.parts();
        name.parse()
            .ok()
            .filter(|part| parts.contains(part))
            .ok_or_else(|| UnknownName {
                name: name.to_owned(),
                known: parts.iter().map(Part::to_string).collect(),
            })
    }
}

/// No part has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no part named `{name}`; the parts are {}", known.join(", "))]
pub struct UnknownName {
    /// What was asked for.
    pub name: String,
    /// The names there are.
    pub known: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        edges: 2,
        apps: 3,
        postgres: 3,
        redis: 3,
        sentinels: 3,
    };

    #[test]
    fn every_part_is_found_by_the_name_it_shows() {
        for part in SHAPE.parts() {
            assert_eq!(SHAPE.find(&part.to_string()), Ok(part));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        for name in [
            "app-4",
            "app-0",
            "app",
            "",
            "-",
            "app-",
            "app-01",
            "app-+1",
            "App-1",
            "app-1 ",
            "etcd-2",
            "app-99999999999999999999999",
            "ápp-1",
        ] {
            let error = SHAPE.find(name).unwrap_err();
            assert!(
                error.to_string().contains("app-1, app-2, app-3, pg-1"),
                "{error}"
            );
        }
    }
}
