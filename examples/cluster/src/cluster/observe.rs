//! How the cluster is: roles, states, and whether everything works.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ha_testbed::patroni::Node;
use ha_testbed::process::Process;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::probe::{self, LIMIT, Member};
use super::{Cluster, Error};
use crate::client;
use crate::part::{Kind, Part};
use crate::status::{PartStatus, RunState, Status};

/// How often is looked while waiting for everything to work again.
const LOOK: Duration = Duration::from_millis(100);

/// What an edge says of one app.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoint {
    pub(super) available: bool,
}

/// What an edge says of the apps behind it.
pub(super) async fn endpoints(admin: SocketAddr, limit: Duration) -> Option<Vec<Endpoint>> {
    let (status, body) = client::send(Method::GET, admin, "/status", limit)
        .await
        .ok()?;
    (status == StatusCode::OK)
        .then(|| serde_json::from_slice(&body).ok())
        .flatten()
}

/// Whether the process is stopped by a signal.
pub(super) fn is_stopped(process: &Process) -> bool {
    let Some(pid) = process.pid() else {
        return false;
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).or_else(|_| {
        let output = std::process::Command::new("ps")
            .args(["-o", "state=", "-p", &pid.to_string()])
            .output()?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    // The name in parentheses may hold anything, so the state is what follows the last of them.
    stat.is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Where the agent of a PostgreSQL server answers.
fn rest(node: &Node) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, node.rest_port).into()
}

impl Cluster {
    /// What every part is doing.
    pub async fn status(&self) -> Status {
        let parts = self.shape.parts();
        let asked = parts
            .iter()
            .map(|&part| self.role(part))
            .collect::<Vec<_>>();
        let (members, roles) = tokio::join!(self.members(), join_all(asked));
        let parts = parts.into_iter().zip(roles).map(|(part, role)| {
            let state = self.run_state(part);
            let role = role.or_else(|| {
                let node = self
                    .patroni
                    .nodes
                    .get(part.index())
                    .filter(|_| part.kind == Kind::Pg)?;
                let member = members.iter().find(|member| member.name == node.name)?;
                (state == RunState::Running).then(|| member.role().to_owned())
            });
            PartStatus {
                name: part.to_string(),
                role,
                state,
                pid: self.process(part).pid(),
                address: self.address(part).to_string(),
            }
        });
        Status {
            url: self.url(),
            edges: self.edges(),
            parts: parts.collect(),
        }
    }

    fn run_state(&self, part: Part) -> RunState {
        let process = self.process(part);
        if !process.is_running() {
            RunState::Dead
        } else if is_stopped(process) {
            RunState::Frozen
        } else {
            RunState::Running
        }
    }

    /// What the part itself says that it is.
    async fn role(&self, part: Part) -> Option<String> {
        if self.run_state(part) != RunState::Running {
            return None;
        }
        match part.kind {
            Kind::Edge => self.edge_role(part).await,
            Kind::App => self.app_role(part).await,
            Kind::Redis => self.redis_role(part).await,
            Kind::Pg | Kind::Etcd | Kind::Sentinel => None,
        }
    }

    /// What Patroni's agents say, asked of all whose process runs.
    async fn members(&self) -> Vec<Member> {
        let rest: Vec<SocketAddr> = (1..)
            .zip(&self.patroni.nodes)
            .filter(|(number, _)| self.run_state(Part::new(Kind::Pg, *number)) == RunState::Running)
            .map(|(_, node)| rest(node))
            .collect();
        probe::members(&rest).await
    }

    async fn edge_role(&self, part: Part) -> Option<String> {
        let endpoints = endpoints(self.edges.get(part.index())?.admin, LIMIT).await?;
        let available = endpoints
            .iter()
            .filter(|endpoint| endpoint.available)
            .count();
        Some(format!("{available}/{} apps", endpoints.len()))
    }

    async fn app_role(&self, part: Part) -> Option<String> {
        let address = self.apps.get(part.index())?.admin;
        let (status, _) = client::send(Method::GET, address, "/readyz", LIMIT)
            .await
            .ok()?;
        Some(
            if status.is_success() {
                "ready"
            } else {
                "not ready"
            }
            .to_owned(),
        )
    }

    async fn redis_role(&self, part: Part) -> Option<String> {
        let info = probe::replication(self.redis.nodes.get(part.index())?.addr()).await?;
        Some(
            if info.get("role")? == "master" {
                "master"
            } else {
                "replica"
            }
            .to_owned(),
        )
    }

    /// The PostgreSQL server that Patroni calls the leader.
    pub async fn primary(&self) -> Option<String> {
        self.pg_names(Member::is_primary).await.pop()
    }

    /// The PostgreSQL servers that follow it.
    pub async fn replicas(&self) -> Vec<String> {
        self.pg_names(|member| !member.is_primary()).await
    }

    async fn pg_names(&self, which: impl Fn(&Member) -> bool) -> Vec<String> {
        let members = self.members().await;
        (1..)
            .zip(&self.patroni.nodes)
            .filter(|(_, node)| {
                members
                    .iter()
                    .any(|member| member.name == node.name && which(member))
            })
            .map(|(number, _)| Part::new(Kind::Pg, number).to_string())
            .collect()
    }

    /// The Redis server that says it is the master and that most Sentinels point at.
    pub async fn redis_master(&self) -> Option<String> {
        let asked = self
            .redis
            .sentinels
            .iter()
            .map(|node| probe::master(node.addr()))
            .collect::<Vec<_>>();
        let voted = join_all(asked).await;
        let votes =
            |address: SocketAddr| voted.iter().filter(|vote| **vote == Some(address)).count();
        let (number, node) = (1..)
            .zip(&self.redis.nodes)
            .max_by_key(|(_, node)| votes(node.addr()))?;
        let info = probe::replication(node.addr()).await?;
        let elected = votes(node.addr()) * 2 > self.redis.sentinels.len();
        (elected && info.get("role")? == "master")
            .then(|| Part::new(Kind::Redis, number).to_string())
    }

    /// Waits until everything works: each part runs, there is a primary with all of its replicas streaming, and a
    /// synchronous one among them, a Redis master with all of its replicas, and every edge sends requests to every app.
    ///
    /// # Errors
    /// [`Error::NotWhole`] says what is missing.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn healed(&self, deadline: Duration) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let missing = self.missing().await;
            if missing.is_empty() {
                return Ok(());
            }
            if start.elapsed() >= deadline {
                return Err(Error::NotWhole {
                    after: deadline,
                    missing,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self
            .shape
            .parts()
            .into_iter()
            .filter_map(|part| match self.run_state(part) {
                RunState::Running => None,
                state => Some(format!("{part} is {}", state.as_str())),
            })
            .collect();
        if !missing.is_empty() {
            return missing;
        }

        let links = self
            .redis
            .nodes
            .iter()
            .map(|node| probe::replication(node.addr()))
            .collect::<Vec<_>>();
        let edges = self
            .edges
            .iter()
            .map(|edge| endpoints(edge.admin, LIMIT))
            .collect::<Vec<_>>();
        let agents: Vec<_> = self
            .patroni
            .nodes
            .iter()
            .map(rest)
            .map(probe::itself)
            .collect();
        let (agents, master, links, edges) = tokio::join!(
            join_all(agents),
            self.redis_master(),
            join_all(links),
            join_all(edges)
        );
        let primaries: Vec<_> = agents
            .iter()
            .flatten()
            .filter(|agent| agent.is_primary())
            .collect();
        if let [primary] = primaries[..] {
            let streaming = primary.streaming();
            let nodes = &self.patroni.nodes;
            let streaming = nodes
                .iter()
                .filter(|node| streaming.contains(&node.name.as_str()))
                .count();
            if streaming + 1 != self.shape.postgres {
                let replicas = self.shape.postgres - 1;
                missing.push(format!(
                    "{streaming} of {replicas} PostgreSQL replicas stream"
                ));
            }
            if self.shape.postgres > 1 && !primary.is_synchronous() {
                missing.push("no PostgreSQL replica is synchronous".to_owned());
            }
        } else {
            missing.push(format!("PostgreSQL has {} primaries", primaries.len()));
        }
        if master.is_none() {
            missing.push("Redis has no master that its Sentinels agree on".to_owned());
        }
        let linked = links
            .iter()
            .flatten()
            .filter(|info| {
                info.get("master_link_status")
                    .is_some_and(|link| link == "up")
            })
            .count();
        if linked + 1 != self.shape.redis {
            missing.push(format!(
                "{linked} of {} Redis replicas are linked",
                self.shape.redis - 1
            ));
        }
        for (number, endpoints) in (1..).zip(edges) {
            let available = endpoints
                .iter()
                .flatten()
                .filter(|endpoint| endpoint.available)
                .count();
            if available != self.shape.apps {
                let edge = Part::new(Kind::Edge, number);
                missing.push(format!(
                    "{edge} sees {available} of {} apps",
                    self.shape.apps
                ));
            }
        }
        missing
    }

    /// What to show when everything is up: the addresses, and what to try.
    pub async fn welcome(&self) -> String {
        let url = self.url();
        let primary = self.primary().await.unwrap_or_else(|| "pg-1".to_owned());
        let mut text = format!("\n{}\n", self.status().await);
        let edges: Vec<String> = self
            .edges()
            .iter()
            .map(|edge| format!("http://{edge}"))
            .collect();
        let _ = writeln!(
            text,
            "{url} is {}: two addresses of one name.\n",
            edges.join(" and ")
        );
        let _ = writeln!(text, "Try, in another terminal:");
        for line in [
            format!("curl -i {url}/"),
            format!("curl -i -c jar -d user=ada {url}/sign-in"),
            format!(
                "curl -i -c jar -b jar -H 'Idempotency-Key: first-note' -d text=hello {url}/notes"
            ),
            format!("curl -i -c jar -b jar -6 {url}/notes"),
            "cargo cluster status".to_owned(),
            format!("cargo cluster kill {primary}       # the primary; then add another note"),
            format!("cargo cluster start {primary}"),
            "cargo cluster logs app-1 -f".to_owned(),
        ] {
            let _ = writeln!(text, "  {line}");
        }
        text.push_str("\nCtrl-C here, or `cargo cluster down`, stops everything.");
        text
    }
}
