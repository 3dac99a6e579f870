//! The router.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use deadpool::managed::{PoolError, Timeouts};
use ha_core::budget::Budget;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::{Builder, Settings};
use super::conn::{Lease, STAND, Stand};
use super::error::{ConnectError, NoPrimary};
use super::history::{Cover, survives};
use super::pool::{CONNECTING, Manager, Node, Object, Pool};
use super::status::{NodeStatus, Status};
use super::token::Token;
use super::topology::{Rules, Topology, View};
use super::{Causal, Conn, Consistency, Db, Error, Transaction, TransactionOptions, probe, warm};

/// A token further than this past everything that has been written was not made by this cluster: no server writes 64
/// GiB between two probes.
const IMPLAUSIBLE: u64 = 64 << 30;

/// Reserved connections per node: enough for the renewals of many leases, which take a millisecond each.
const RESERVED: usize = 2;

/// Routes to the primary and its replicas. Clones share everything; when the last is dropped, the probes end.
#[derive(Debug, Clone)]
pub struct Router {
    pub(crate) core: Arc<Core>,
    _probes: Arc<Probes>,
}

#[derive(Debug)]
struct Probes(Vec<AbortHandle>);

impl Drop for Probes {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) nodes: Vec<Arc<Node>>,
    /// One pool per node and role, each of its role's size. A change of role makes every connection old, so none is missed; and
    /// deadpool's `resize` does not shrink a pool that has not made all of its connections yet.
    pools: Vec<Pool>,
    replica_pools: Vec<Pool>,
    /// Small ones for work that a full pool must not stop: renewals of leases.
    reserved: Vec<Pool>,
    pub(crate) view: Arc<ArcSwap<View>>,
    pub(crate) runtime: Handle,
    pub(crate) fallback: Arc<Semaphore>,
    pub(crate) turn: AtomicUsize,
    pub(crate) budget: Budget,
    topology: Mutex<Topology>,
    changed: watch::Sender<u64>,
}

impl Core {
    /// Applies what a probe found, and publishes the conclusions.
    pub(crate) fn learn(&self, apply: impl FnOnce(&mut Topology, Instant)) {
        let mut topology = self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        apply(&mut topology, now);
        let view = topology.view(now);
        for (node, seen) in self.nodes.iter().zip(&view.nodes) {
            if node.generation.swap(seen.generation, Ordering::AcqRel) != seen.generation {
                for pools in [&self.pools, &self.replica_pools, &self.reserved] {
                    drop(
                        pools[node.index]
                            .retain(|session, _| session.generation >= seen.generation),
                    );
                }
            }
            node.cut.send_if_modified(|cut| {
                let more = seen.cut > *cut;
                *cut = seen.cut.max(*cut);
                more
            });
        }
        let old = self.view.swap(Arc::new(view));
        let new = self.view.load();
        if old.epoch != new.epoch || old.primary.is_ok() != new.primary.is_ok() {
            let primary = new.primary.ok().map(|index| &*self.nodes[index].name);
            tracing::info!(
                epoch = new.epoch,
                timeline = new.timeline,
                primary,
                "primary changed"
            );
        }
        drop(topology);
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn wanted_history(&self) -> Option<u32> {
        self.topology
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wanted_history()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes every probe.
    pub(crate) fn kick(&self) {
        self.nodes.iter().for_each(|node| node.kick.notify_one());
    }

    /// A connection of one node, waiting at most `wait` for a free one.
    pub(crate) async fn checkout(&self, index: usize, wait: Duration) -> Result<Object, Error> {
        let pools = if self.view.load().primary == Ok(index) {
            &self.pools
        } else {
            &self.replica_pools
        };
        self.checkout_of(&pools[index], index, wait).await
    }

    async fn checkout_of(
        &self,
        pool: &Pool,
        index: usize,
        wait: Duration,
    ) -> Result<Object, Error> {
        let node = || self.nodes[index].name.to_string();
        let free = Timeouts {
            wait: Some(Duration::ZERO),
            create: None,
            recycle: None,
        };
        let got = match pool.timeout_get(&free).await {
            Err(PoolError::Timeout(_)) if !wait.is_zero() => {
                match timeout(wait, pool.timeout_get(&Timeouts::default())).await {
                    Ok(got) => got,
                    Err(_) => return Err(Error::Pool { node: node() }),
                }
            }
            got => got,
        };
        got.map_err(|error| match error {
            PoolError::Timeout(_) => Error::Pool { node: node() },
            PoolError::Backend(source) => {
                self.nodes[index].kick.notify_one();
                Error::NotSent {
                    node: node(),
                    source,
                }
            }
            _ => Error::NotSent {
                node: node(),
                source: ConnectError::Closed,
            },
        })
    }

    /// What of `token` still stands, as an error when it does not.
    pub(crate) fn check(&self, view: &View, token: &Token) -> Result<(), Error> {
        let Some(ours) = view.system_id else {
            return Ok(());
        };
        if token.system_id() != ours {
            return Err(Error::ForeignToken {
                token: token.system_id(),
                ours,
            });
        }
        for position in [token.written(), token.seen()] {
            // A newer timeline than ours is news, not nonsense.
            let known = view.tip.0 > 0 && position.timeline <= view.timeline;
            if known && position.lsn.0 > view.tip.0.saturating_add(IMPLAUSIBLE) {
                return Err(Error::ImplausibleToken { position });
            }
        }
        let written = token.written();
        match survives(written, view.timeline, view.history.as_deref()) {
            Cover::Lost(lsn) => Err(Error::Lost {
                written,
                switch: super::Position {
                    timeline: view.timeline,
                    lsn,
                },
            }),
            _ => Ok(()),
        }
    }

    /// Where the primary stands, unless `instead_of` is the primary.
    pub(crate) async fn ask_primary(&self, instead_of: usize) -> Option<Stand> {
        let primary = self.view.load().primary.ok();
        let primary = primary.filter(|primary| *primary != instead_of)?;
        let object = self.checkout(primary, Duration::ZERO).await.ok()?;
        let answer = object.client.simple_query(STAND).await.ok()?;
        Stand::read(&answer, None)
    }

    /// A connection to the primary, waiting for one until `write_wait` has passed.
    pub(crate) async fn primary(&self, needed_timeline: u32) -> Result<(usize, Object), Error> {
        self.primary_on(false, needed_timeline).await
    }

    /// As [`Core::primary`], on a reserved connection if `reserved`.
    pub(crate) async fn primary_on(
        &self,
        reserved: bool,
        needed_timeline: u32,
    ) -> Result<(usize, Object), Error> {
        let pools = if reserved {
            &self.reserved
        } else {
            &self.pools
        };
        let limit = self.settings.write_wait;
        let end = tokio::time::Instant::now() + limit;
        let mut changes = self.subscribe();
        let mut last: Option<Error> = None;
        loop {
            changes.mark_unchanged();
            let view = self.view.load_full();
            let reason = match view.primary {
                Ok(index) if view.timeline >= needed_timeline => {
                    let left = end.saturating_duration_since(tokio::time::Instant::now());
                    let wait = self.settings.pool_wait.min(left);
                    match timeout(left, self.checkout_of(&pools[index], index, wait)).await {
                        Ok(Ok(object)) => return Ok((index, object)),
                        Ok(Err(full @ Error::Pool { .. })) => return Err(full),
                        Ok(Err(error)) => last = Some(error),
                        Err(_) => {}
                    }
                    NoPrimary::NotFound
                }
                Ok(_) => NoPrimary::StaleForToken,
                Err(reason) => reason,
            };
            self.kick();
            if tokio::time::timeout_at(end, changes.changed())
                .await
                .is_err()
            {
                return Err(last.unwrap_or(Error::NoPrimary {
                    waited: limit,
                    reason,
                }));
            }
        }
    }
}

impl Router {
    /// Starts a builder.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(
        nodes: Vec<(String, tokio_postgres::Config)>,
        settings: Settings,
        runtime: Handle,
    ) -> Self {
        let rules = Rules {
            max_lag: settings.max_lag,
            readmit_after: settings.readmit_after,
            cut_after: settings.cut_after,
            system_id: settings.system_id,
        };
        let topology = Topology::new(nodes.len(), rules);
        let view = Arc::new(ArcSwap::from_pointee(topology.view(Instant::now())));
        let single = nodes.len() == 1;
        let half = if single {
            settings.pool_size
        } else {
            settings.pool_size.div_ceil(2)
        };
        let nodes: Vec<Arc<Node>> = nodes
            .into_iter()
            .enumerate()
            .map(|(index, (name, config))| {
                Arc::new(Node {
                    index,
                    name: name.into(),
                    config,
                    connect_timeout: settings.connect_timeout,
                    #[cfg(feature = "tls")]
                    tls: settings.tls.clone(),
                    connecting: Semaphore::new(CONNECTING),
                    kick: Notify::new(),
                    generation: 0.into(),
                    cut: watch::Sender::new(0),
                })
            })
            .collect();
        let pools = |size: usize| -> Vec<Pool> {
            let pools = nodes.iter().map(|node| {
                let manager = Manager {
                    node: Arc::clone(node),
                    view: Arc::clone(&view),
                };
                let pool = Pool::builder(manager).max_size(size).build();
                pool.unwrap_or_else(|_| unreachable!("without timeouts a pool needs no runtime"))
            });
            pools.collect()
        };
        let replicas = settings.replica_pool_size.unwrap_or(settings.pool_size);
        let (replica_pools, reserved) = (pools(replicas), pools(RESERVED));
        let pools = pools(settings.pool_size);
        let core = Arc::new(Core {
            pools,
            replica_pools,
            reserved,
            fallback: Arc::new(Semaphore::new(settings.fallback_reads.unwrap_or(half))),
            view,
            runtime: runtime.clone(),
            turn: AtomicUsize::new(0),
            budget: Budget::new(settings.retry_budget, Instant::now())
                .unwrap_or_else(|_| unreachable!("the builder has checked it")),
            settings,
            topology: Mutex::new(topology),
            changed: watch::Sender::new(0),
            nodes,
        });
        let probes = core.nodes.iter().map(|node| {
            runtime
                .spawn(probe::run(Arc::clone(&core), Arc::clone(node)))
                .abort_handle()
        });
        let warming = runtime.spawn(warm::run(Arc::clone(&core))).abort_handle();
        let probes = Arc::new(Probes(probes.chain([warming]).collect()));
        Self {
            core,
            _probes: probes,
        }
    }

    /// A connection for a read that may see any state of the past: a replica within `max_lag`, else the primary.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// Nothing is lost: a connection that was being made goes to the pool or is closed.
    pub async fn read(&self) -> Result<Conn, Error> {
        self.db(Causal::default())
            .read_with(Consistency::Eventual)
            .await
    }

    /// A connection to the primary, each statement a transaction of its own. Waits up to `write_wait` for a primary.
    ///
    /// # Errors
    /// [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn write(&self) -> Result<Conn, Error> {
        let (index, object) = self.core.primary(0).await?;
        Ok(Conn::pooled(Lease::new(self, index, object, None, true)))
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
        let nodes = self.core.nodes.iter().zip(&view.nodes);
        Status {
            epoch: view.epoch,
            system_id: view.system_id,
            primary: view
                .primary
                .ok()
                .map(|index| self.core.nodes[index].name.to_string()),
            no_primary: view.primary.err(),
            nodes: nodes
                .map(|(node, seen)| NodeStatus {
                    name: node.name.to_string(),
                    role: seen.role,
                    reachable: seen.reachable,
                    timeline: seen.timeline,
                    lsn: seen.lsn,
                    lag: seen.lag,
                    ejected: seen.ejected,
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
        let node = self.core.nodes.iter().find(|node| &*node.name == name);
        let Some(node) = node else {
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
        let mut changes = self.core.subscribe();
        let known = changes.wait_for(|_| self.core.view.load().primary.is_ok());
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
