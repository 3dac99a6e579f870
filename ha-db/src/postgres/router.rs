//! The router.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::{Builder, ConfigError, NodeConfig, Server, Settings};
use super::db::lend_primary;
use super::error::ConnectError;
use super::event::Listeners;
use super::read::read;
use super::role::NoPrimary;
pub(crate) use super::shared::Core;
use super::status::{NodeStatus, Status};
use super::token::Token;
use super::{Causal, Conn, Consistency, Db, Error, Transaction, TransactionOptions, warm};
use crate::routing::read::NodeSet;

/// Routes to the primary and its replicas. Clones share everything; when the last is dropped, the probes end.
#[derive(Debug, Clone)]
pub struct Router {
    pub(crate) core: Arc<Core>,
    _probes: Arc<Probes>,
}

/// Ends what runs for the router when nobody has it any more.
#[derive(Debug)]
struct Probes {
    core: Arc<Core>,
    warming: AbortHandle,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.warming.abort();
        let members = self.core.state().members.clone();
        members.iter().flatten().for_each(|member| member.end());
    }
}

impl Router {
    /// Starts a builder.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(
        nodes: Vec<NodeConfig>,
        settings: Settings,
        listeners: Listeners,
        runtime: Handle,
    ) -> Result<Self, ConfigError> {
        let core = Arc::new(Core::new(settings, listeners, runtime));
        let warming = core.runtime.spawn(warm::run(Arc::clone(&core)));
        let router = Self {
            _probes: Arc::new(Probes {
                core: Arc::clone(&core),
                warming: warming.abort_handle(),
            }),
            core,
        };
        nodes
            .into_iter()
            .try_for_each(|node| router.core.add(node))?;
        Ok(router)
    }

    /// Adds a node to those given to the builder, with its locality where it has one. It is asked what it is at once, and used
    /// as soon as it has answered.
    ///
    /// # Errors
    /// [`ConfigError`] as from [`Builder::build`]; nothing was changed.
    pub fn add_node(
        &self,
        name: impl Into<String>,
        conninfo: impl AsRef<str>,
        locality: Option<&str>,
    ) -> Result<(), ConfigError> {
        let locality = locality.map(str::to_owned);
        let server = Server::Conninfo(conninfo.as_ref().to_owned());
        let config = NodeConfig::new(name.into(), &server, locality, &self.core.settings)?;
        self.core.add(config)
    }

    /// Takes a node out. It gets nothing more, what is lent on it may end in peace, and nothing that it said counts any longer:
    /// also not that it tied with another for the role of the primary.
    ///
    /// # Errors
    /// [`ConfigError::UnknownNode`].
    pub fn remove_node(&self, name: &str) -> Result<(), ConfigError> {
        let unknown = || ConfigError::UnknownNode {
            name: name.to_owned(),
        };
        self.core.remove(name).ok_or_else(unknown)
    }

    /// Has every node asked now instead of with its next turn. The router does so by itself when a connection breaks, a write
    /// meets a read-only server, or a token tells of a newer timeline; call it when you have learnt of a change by another
    /// way, such as the callback of a cluster manager.
    pub fn probe_now(&self) {
        self.core.kick();
    }

    /// A connection for a read that may see any state of the past: a replica within `max_lag`, else the primary.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// Nothing is lost: a connection that was being made goes to the pool or is closed.
    pub async fn read(&self) -> Result<Conn, Error> {
        let none = NodeSet::EMPTY;
        read(&self.core, None, Consistency::Eventual, none).await
    }

    /// A connection to the primary, each statement a transaction of its own. Waits up to `write_wait` for a primary.
    ///
    /// # Errors
    /// [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn write(&self) -> Result<Conn, Error> {
        let lease = lend_primary(&self.core, None, false, true).await?;
        Ok(Conn::pooled(lease))
    }

    /// As [`Router::write`], on a connection that only leases and registries use: a full pool does not stop it.
    pub(crate) async fn write_reserved(&self) -> Result<Conn, Error> {
        let lease = lend_primary(&self.core, None, true, true).await?;
        Ok(Conn::pooled(lease))
    }

    /// A transaction on the primary. Waits up to `write_wait` for a primary.
    ///
    /// # Errors
    /// As [`Router::write`], and [`Error::Query`] when the server refuses to begin.
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn transaction(&self) -> Result<Transaction, Error> {
        self.transaction_with(TransactionOptions::default()).await
    }

    /// As [`Router::transaction`], with options.
    ///
    /// # Errors
    /// As [`Router::transaction`].
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn transaction_with(
        &self,
        options: TransactionOptions,
    ) -> Result<Transaction, Error> {
        Transaction::begin(self, None, &options).await
    }

    /// This router as one client sees it.
    #[must_use]
    pub fn db(&self, causal: Causal) -> Db {
        Db::new(self.clone(), causal)
    }

    /// Whether `token` is of this cluster and what it covers has survived.
    ///
    /// # Errors
    /// [`Error::ForeignToken`], [`Error::ImplausibleToken`], [`Error::Lost`].
    pub fn check(&self, token: &Token) -> Result<(), Error> {
        self.core.check(&self.core.view.load(), token)
    }

    /// What is known right now.
    #[must_use]
    pub fn status(&self) -> Status {
        let view = self.core.view.load();
        let name = |index| view.node(index).map(|node| node.name.to_string());
        let nodes = view.members.iter().zip(&view.nodes).zip(&view.problems);
        Status {
            epoch: view.epoch,
            system_id: view.system_id,
            primary: view.primary.ok().and_then(name),
            no_primary: view.primary.err(),
            nodes: nodes
                .filter_map(|((member, seen), problem)| {
                    let node = &member.as_ref()?.node;
                    Some(NodeStatus {
                        name: node.name.to_string(),
                        role: seen.role,
                        reachable: seen.reachable,
                        timeline: seen.timeline,
                        lsn: seen.lsn,
                        lag: seen.lag,
                        ejected: seen.ejected,
                        in_use: node.in_use(),
                        problem: problem.clone(),
                    })
                })
                .collect(),
        }
    }

    /// Connects to one node, outside of the pools, and says why that is not possible: for a check at start, and for whoever
    /// wants to know why a node is unreachable.
    ///
    /// # Errors
    /// [`ConnectError`]. [`ConnectError::Unnamed`] when no node has this name.
    ///
    /// # Cancel safety
    /// It has no effect.
    pub async fn try_node(&self, name: &str) -> Result<(), ConnectError> {
        let view = self.core.view.load_full();
        let mut nodes = view.present().map(|(node, _)| node);
        let Some(node) = nodes.find(|node| &*node.name == name) else {
            return Err(ConnectError::Unnamed {
                name: name.to_owned(),
            });
        };
        node.connect().await.map(drop)
    }

    /// Waits until a primary is known.
    ///
    /// # Errors
    /// [`Error::NoPrimary`] after `deadline`.
    ///
    /// # Cancel safety
    /// It has no effect but to wait.
    pub async fn wait_primary(&self, deadline: Duration) -> Result<(), Error> {
        if self.core.view.load().primary.is_ok() {
            return Ok(());
        }
        let mut turns = self.core.turns();
        let _waiting = self.core.wait();
        let known = turns.wait_for(|_| self.core.view.load().primary.is_ok());
        if timeout(deadline, known).await.is_ok() {
            return Ok(());
        }
        let reason = self
            .core
            .view
            .load()
            .primary
            .err()
            .unwrap_or(NoPrimary::NotFound);
        Err(Error::NoPrimary {
            waited: deadline,
            reason,
        })
    }
}
