//! Connections of one node: made, checked and cut by deadlines and generations of ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::error::ConnectError;
use super::topology::View;

/// A node's shared parts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
    pub(crate) config: Config,
    pub(crate) connect_timeout: Duration,
    /// Wakes the probe before its time.
    pub(crate) kick: Notify,
    pub(crate) generation: AtomicU64,
    pub(crate) cut: watch::Sender<u64>,
}

/// A connection with the task that drives it. Dropping it closes the socket at once, whatever the server is doing.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) generation: u64,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Connects within the deadline. The connection ends when its generation is cut, and its unexpected end wakes the
    /// probe.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Session, ConnectError> {
        let limit = self.connect_timeout;
        let generation = self.generation.load(Ordering::Acquire);
        let (client, connection) = timeout(limit, self.config.connect(NoTls))
            .await
            .map_err(|_| ConnectError::Timeout { limit })??;
        let node = Arc::clone(self);
        let mut cut = self.cut.subscribe();
        let driver = tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                _ = cut.wait_for(|cut| *cut > generation) => {}
            }
            node.kick.notify_one();
        });
        Ok(Session {
            client,
            generation,
            driver: driver.abort_handle(),
        })
    }
}

pub(crate) type Pool = managed::Pool<Manager>;
pub(crate) type Object = managed::Object<Manager>;

/// Makes and checks pooled connections.
#[derive(Debug)]
pub(crate) struct Manager {
    pub(crate) node: Arc<Node>,
    pub(crate) view: Arc<ArcSwap<View>>,
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = ConnectError;

    async fn create(&self) -> Result<Session, ConnectError> {
        const WHO: &str = "SELECT pg_is_in_recovery(), \
             (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
        let session = self.node.connect().await?;
        let limit = self.node.connect_timeout;
        let answer = timeout(limit, session.client.simple_query(WHO))
            .await
            .map_err(|_| ConnectError::Timeout { limit })??;
        let row = first_row(&answer).ok_or(ConnectError::Changed)?;
        let view = self.view.load();
        let node = &view.nodes[self.node.index];
        // A session keeps its role as long as its postmaster lives, so what is checked here holds until a promotion.
        let primary = view.primary == Ok(self.node.index);
        let same = row.get(0) == Some(if primary { "f" } else { "t" })
            && row.get(1).and_then(|text| text.parse().ok()) == node.started
            && session.generation == node.generation;
        if !same {
            self.node.kick.notify_one();
            return Err(ConnectError::Changed);
        }
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ConnectError> {
        // No query: on a frozen node it would hang, and a dead connection is noticed by its driver.
        if session.client.is_closed()
            || session.generation != self.node.generation.load(Ordering::Acquire)
        {
            return Err(RecycleError::message("of an earlier generation, or closed"));
        }
        Ok(())
    }
}

pub(crate) fn first_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// Reads one column of a simple query's row.
pub(crate) fn field<T: std::str::FromStr>(row: &SimpleQueryRow, index: usize) -> Option<T> {
    row.try_get(index).ok().flatten()?.parse().ok()
}
