//! A whole cluster as a value: start it, break its parts, ask how it is, drop it.
//!
//! `cargo cluster up` is this with a command line, the drill is this with a load. Dropping a [`Cluster`] ends every
//! process of it; so does the end of this process, however it comes, by the watchers of [`ha_testbed::process`].

mod error;
mod observe;
mod options;
mod probe;
mod start;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use ha_testbed::patroni;
use ha_testbed::ports::Reservation;
use ha_testbed::process::{Bed, Process};
use ha_testbed::redis;
use http::Method;

pub use self::error::Error;
pub use self::options::{Defence, Fault, Options, Port};
use crate::client;
use crate::part::{Kind, Part, Shape};
use crate::state::{PartState, Place, State};

/// How long an edge or app gets to finish what it is doing when the cluster goes down.
const GRACE: Duration = Duration::from_secs(2);

/// How long an admin address gets to answer.
const ADMIN: Duration = Duration::from_secs(2);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    shape: Shape,
    // Ended in this order when dropped: what asks before what is asked.
    edges: Vec<Own>,
    apps: Vec<Own>,
    patroni: patroni::Cluster,
    redis: redis::Cluster,
    // Below the processes, because they use all of this.
    _bed: Bed,
    _ports: (Reservation, Option<Reservation>),
    _temporary: Option<tempfile::TempDir>,
}

/// An edge or an app.
#[derive(Debug)]
struct Own {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Cluster {
    /// The names of all parts, in the order in which a request meets them.
    pub fn names(&self) -> Vec<String> {
        self.shape.parts().iter().map(Part::to_string).collect()
    }

    /// Where the edges listen: what the name `localhost` resolves to, as it were.
    pub fn edges(&self) -> Vec<SocketAddr> {
        self.edges.iter().map(|edge| edge.address).collect()
    }

    /// The address that a browser is pointed at.
    pub fn url(&self) -> String {
        let port = self.edges.first().map_or(0, |edge| edge.address.port());
        format!("http://localhost:{port}")
    }

    /// The admin address of an edge or app.
    pub fn admin(&self, name: &str) -> Option<SocketAddr> {
        self.own(self.shape.find(name).ok()?).map(|own| own.admin)
    }

    /// A connection string for a PostgreSQL server and the apps' database on it.
    pub fn postgres(&self, name: &str) -> Option<String> {
        let part = self
            .shape
            .find(name)
            .ok()
            .filter(|part| part.kind == Kind::Pg)?;
        Some(self.patroni.nodes.get(part.index())?.app_conninfo())
    }

    /// The address of a Redis server.
    pub fn redis(&self, name: &str) -> Option<SocketAddr> {
        let part = self
            .shape
            .find(name)
            .ok()
            .filter(|part| part.kind == Kind::Redis)?;
        Some(self.redis.nodes.get(part.index())?.addr())
    }

    fn own(&self, part: Part) -> Option<&Own> {
        match part.kind {
            Kind::Edge => self.edges.get(part.index()),
            Kind::App => self.apps.get(part.index()),
            _ => None,
        }
    }

    /// Kills a part and all of its helpers (SIGKILL), as if its machine lost power.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Dead`], or what the system says.
    ///
    /// # Cancel safety
    /// The part may be killed or not.
    pub async fn kill(&self, name: &str) -> Result<(), Error> {
        let part = self.living(name)?;
        let index = part.index();
        match part.kind {
            Kind::Pg => self.patroni.kill_node(index).await?,
            Kind::Etcd => self.patroni.etcd.kill().await?,
            Kind::Redis => self.redis.nodes[index].kill().await?,
            Kind::Sentinel => self.redis.sentinels[index].kill().await?,
            Kind::Edge => self.edges[index].process.kill().await?,
            Kind::App => self.apps[index].process.kill().await?,
        }
        Ok(())
    }

    /// Freezes a part and all of its helpers (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Dead`], or what the system says.
    pub async fn stop(&self, name: &str) -> Result<(), Error> {
        let part = self.living(name)?;
        let index = part.index();
        match part.kind {
            Kind::Pg => self.patroni.freeze_node(index)?,
            Kind::Etcd => self.patroni.etcd.freeze()?,
            Kind::Redis => self.redis.nodes[index].freeze()?,
            Kind::Sentinel => self.redis.sentinels[index].freeze()?,
            Kind::Edge => self.edges[index].process.freeze()?,
            Kind::App => self.apps[index].process.freeze()?,
        }
        Ok(())
    }

    /// Starts a part that was killed, or lets one go on that was frozen. It runs then; whether it serves again,
    /// [`healed`](Self::healed) tells.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Running`], or why it does not start.
    ///
    /// # Cancel safety
    /// The part may be started or not.
    pub async fn start(&self, name: &str) -> Result<(), Error> {
        let process = self.process(self.shape.find(name)?);
        if !process.is_running() {
            process.start()?;
        } else if observe::is_stopped(process) {
            process.thaw()?;
        } else {
            return Err(Error::Running {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    /// Makes an app misbehave, or behave again.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::NotAnApp`], or that it cannot be told.
    pub async fn fault(&self, name: &str, fault: Fault) -> Result<(), Error> {
        let part = self.living(name)?;
        let Some(own) = self.own(part).filter(|_| part.kind == Kind::App) else {
            return Err(Error::NotAnApp {
                name: name.to_owned(),
            });
        };
        let path = format!("/fault/{}", fault.as_str());
        let (status, _) = client::send(Method::POST, own.admin, &path, ADMIN)
            .await
            .map_err(|source| Error::Admin {
                name: name.to_owned(),
                source,
            })?;
        if status.is_success() {
            Ok(())
        } else {
            Err(Error::AdminRefused {
                name: name.to_owned(),
                status: status.as_u16(),
            })
        }
    }

    /// Takes everything down: edges and apps finish what they are doing, the servers are killed.
    ///
    /// # Errors
    /// When a process cannot be ended. The rest is ended nevertheless.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let own = self.edges.iter().chain(&self.apps).map(|own| {
            // A stopped process would let the whole grace pass before it sees the signal.
            let _ = own.process.thaw();
            own.process.terminate(GRACE)
        });
        let ended = join_all(own.collect::<Vec<_>>()).await;
        // Only now: requests under way needed them.
        let parts = self.shape.parts();
        let servers = parts.iter().filter(|part| self.own(**part).is_none());
        let killed = join_all(servers.map(|part| self.process(*part).kill())).await;
        let failed = ended.into_iter().chain(killed).find_map(Result::err);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The part, if its process is there.
    fn living(&self, name: &str) -> Result<Part, Error> {
        let part = self.shape.find(name)?;
        if self.process(part).is_running() {
            Ok(part)
        } else {
            Err(Error::Dead {
                name: name.to_owned(),
            })
        }
    }

    fn process(&self, part: Part) -> &Process {
        let index = part.index();
        match part.kind {
            Kind::Edge => &self.edges[index].process,
            Kind::App => &self.apps[index].process,
            Kind::Pg => &self.patroni.nodes[index].process,
            Kind::Etcd => &self.patroni.etcd,
            Kind::Redis => &self.redis.nodes[index].process,
            Kind::Sentinel => &self.redis.sentinels[index].process,
        }
    }

    fn address(&self, part: Part) -> SocketAddr {
        let index = part.index();
        match part.kind {
            Kind::Edge => self.edges[index].address,
            Kind::App => self.apps[index].address,
            Kind::Pg => self.patroni.nodes[index].addr(),
            Kind::Etcd => self.patroni.etcd_addr(),
            Kind::Redis => self.redis.nodes[index].addr(),
            Kind::Sentinel => self.redis.sentinels[index].addr(),
        }
    }

    /// What the other commands need to know.
    pub fn state(&self, place: &Place, control: &Path) -> State {
        let parts = self.shape.parts().into_iter().map(|part| {
            let process = self.process(part);
            PartState {
                name: part.to_string(),
                pid: process.pid(),
                address: self.address(part).to_string(),
                logs: vec![process.log_path().to_owned()],
            }
        });
        State {
            supervisor: std::process::id(),
            control: control.to_owned(),
            dirs: place.dirs(),
            url: self.url(),
            parts: parts.collect(),
        }
    }
}
