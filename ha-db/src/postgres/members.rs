//! The set of nodes, which may change while the router runs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

use super::catch_up::Asking;
use super::config::{ConfigError, NodeConfig, Settings};
use super::event::Event;
use super::pool::{CONNECTING, Manager, Node, Pool, Session};
use super::probe;
use super::shared::Core;
use crate::routing::read::{Busy, MAX_NODES};

/// Reserved connections per node: enough for the renewals of many leases, which take a millisecond each.
const RESERVED: usize = 2;

/// A node with its connections and its probe.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) node: Arc<Node>,
    /// One pool for each role, of its role's size: deadpool's `resize` does not shrink a pool that has not made all of its connections
    /// yet. Of a standby that becomes the primary the connections are handed over.
    pub(super) pool: Pool,
    pub(super) replica_pool: Pool,
    /// A small one for work that a full pool must not stop: renewals of leases.
    pub(super) reserved: Pool,
    /// On the way from the pool of the one role to that of the other.
    spare: Arc<Spare>,
    probe: AbortHandle,
}

/// Idle connections that `pool` uses before it makes new ones.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Session>>);

impl Spare {
    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is open and of this generation, and of this life of the server.
    pub(super) fn take(&self, generation: u64, started: Option<i64>) -> Option<Session> {
        let mut sessions = self.sessions();
        std::iter::from_fn(|| sessions.pop()).find(|session| {
            !session.client.is_closed()
                && session.generation == generation
                && Some(session.life.started) == started
        })
    }
}

impl Member {
    /// Hands over what a standby that has become the primary has idle connections, and what comes back to it since, as many as the
    /// primary's pool has room for; the others are closed.
    pub(super) fn hand_over(&self, primary: bool) {
        let generation = self.node.generation.load(Ordering::Acquire);
        let mut spare = self.spare.sessions();
        spare.retain(|session| session.generation == generation && !session.client.is_closed());
        if primary && self.replica_pool.status().size > 0 {
            spare.extend(self.replica_pool.retain(|_, _| false).removed);
            let pool = self.pool.status();
            spare.truncate(pool.max_size.saturating_sub(pool.size));
        }
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = &Pool> {
        [&self.pool, &self.replica_pool, &self.reserved].into_iter()
    }

    /// Asks no more and lends no more. What is lent ends when it is given back.
    pub(super) fn end(&self) {
        self.probe.abort();
        self.pools().for_each(Pool::close);
        self.spare.sessions().clear();
    }
}

/// Places of nodes that were removed and are still in use.
#[derive(Debug, Default)]
pub(super) struct Graves(Vec<(usize, Weak<Node>)>);

impl Graves {
    fn is_quiet(&self, index: usize) -> bool {
        let mut here = self.0.iter().filter(|(place, _)| *place == index);
        here.all(|(_, node)| node.strong_count() == 0)
    }
}

impl Core {
    /// Adds a node, and starts asking it what it is.
    pub(super) fn add(self: &Arc<Self>, config: NodeConfig) -> Result<(), ConfigError> {
        let mut state = self.state();
        let mut present = state.members.iter().flatten();
        if present.any(|member| *member.node.name == *config.name) {
            return Err(ConfigError::DuplicateNode { name: config.name });
        }
        if state.members.iter().flatten().count() == MAX_NODES {
            return Err(ConfigError::TooManyNodes { limit: MAX_NODES });
        }
        let near = match (&self.settings.local, &config.locality) {
            (Some(own), Some(theirs)) => own == theirs,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let graves = std::mem::take(&mut state.graves);
        let full = state.members.len() == MAX_NODES;
        let index = state
            .topology
            .add(near, |index| full || graves.is_quiet(index));
        state.graves = graves;
        state.graves.0.retain(|(_, node)| node.strong_count() > 0);
        let settings = &self.settings;
        let node = Arc::new(Node::new(index, &config, settings));
        let replicas = settings.replica_pool_size.unwrap_or(settings.pool_size);
        let pools = [settings.pool_size, replicas, RESERVED];
        let spare = Arc::<Spare>::default();
        let mut first = Some(Arc::clone(&spare));
        let [pool, replica_pool, reserved] =
            pools.map(|size| pool(size, &node, self, first.take()));
        let name = Arc::clone(&node.name);
        let probe = self
            .runtime
            .spawn(probe::run(Arc::clone(self), Arc::clone(&node)))
            .abort_handle();
        let member = Some(Arc::new(Member {
            node,
            pool,
            replica_pool,
            reserved,
            spare,
            probe,
        }));
        if index == state.members.len() {
            state.members.push(member);
            state.told.push(None);
        } else {
            state.members[index] = member;
            state.told[index] = None;
        }
        self.publish(state, [Event::NodeAdded { node: name }]);
        Ok(())
    }

    /// Takes a node out. `None` when there is none of this name.
    pub(super) fn remove(&self, name: &str) -> Option<()> {
        let mut state = self.state();
        let index = state.members.iter().position(|member| {
            member
                .as_ref()
                .is_some_and(|member| *member.node.name == *name)
        })?;
        let member = state.members[index].take()?;
        state.told[index] = None;
        state.graves.0.push((index, Arc::downgrade(&member.node)));
        state.topology.remove(index, std::time::Instant::now());
        member.end();
        let node = Arc::clone(&member.node.name);
        self.publish(state, [Event::NodeRemoved { node }]);
        Some(())
    }
}

fn pool(size: usize, node: &Arc<Node>, core: &Core, spare: Option<Arc<Spare>>) -> Pool {
    let manager = Manager {
        node: Arc::clone(node),
        view: Arc::downgrade(&core.view),
        spare,
    };
    let pool = Pool::builder(manager).max_size(size).build();
    pool.unwrap_or_else(|_| unreachable!("without timeouts a pool needs no runtime"))
}

impl Node {
    /// Connections that are lent now.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Counts a connection as lent, or as given back.
    pub(crate) fn lend(&self) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn take_back(&self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn busy(&self) -> Busy {
        Busy {
            refusing: self.refusing.load(Ordering::Relaxed),
            in_use: self.in_use(),
        }
    }

    fn new(index: usize, config: &NodeConfig, settings: &Settings) -> Self {
        Self {
            index,
            name: config.name.as_str().into(),
            config: config.postgres.clone(),
            connect_timeout: settings.connect_timeout,
            #[cfg(feature = "tls")]
            tls: settings.tls.clone(),
            connecting: Semaphore::new(CONNECTING),
            kick: Notify::new(),
            generation: 0.into(),
            cut: watch::Sender::new(0),
            in_use: 0.into(),
            refusing: false.into(),
            asking: Asking::default(),
        }
    }
}
