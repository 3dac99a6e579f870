//! Connections of one node: made, checked and cut by deadlines and generations of ours.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow,
};

use super::catch_up::Asking;
use super::error::ConnectError;
use super::members::Spare;
use super::shared::Snapshot;
use super::statements::Statements;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// Connections of a pool that are being made at the same time: enough to fill it quickly, few enough for a server that has just
/// been promoted and is met by everybody.
pub(crate) const CONNECTING: usize = 4;

/// A node's shared parts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
    pub(crate) config: Config,
    pub(crate) connect_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// Of [`CONNECTING`]; probes need none.
    pub(crate) connecting: Semaphore,
    /// Wakes the probe before its time.
    pub(crate) kick: Notify,
    pub(crate) generation: AtomicU64,
    pub(crate) cut: watch::Sender<u64>,
    /// Connections that are lent.
    pub(crate) in_use: AtomicUsize,
    /// The last attempt to connect for a pool has failed, and no probe has said anything since.
    pub(crate) refusing: AtomicBool,
    /// Those who wait until it has replayed more.
    pub(crate) asking: Asking,
}

/// A connection with the task that drives it. Dropping it closes the socket at once, whatever the server is doing.
///
/// It is moved at every checkout, so it is no more than a pointer.
#[derive(Debug)]
pub(crate) struct Session(Box<Live>);

impl Deref for Session {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) client: Client,
    pub(crate) node: Arc<Node>,
    pub(crate) generation: u64,
    /// Its process on the server, and the life of that server; known of pooled connections.
    pub(crate) pid: i32,
    pub(crate) life: Life,
    pub(crate) statements: Statements,
    driver: AbortHandle,
}

/// One life of a server. A crash of one of its processes begins a new one without a new postmaster, but not without a new
/// checkpointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Life {
    /// Microseconds since 1970.
    pub(crate) started: i64,
    pub(crate) checkpointer: i64,
}

pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

fn drive<S, T>(
    mut connection: Connection<S, T>,
    mut heard: impl FnMut(AsyncMessage) + Send + 'static,
) -> Driver
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            heard(message);
        }
    })
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Connects within the deadline, for a question of our own. The unexpected end of the connection wakes the probe.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Session, ConnectError> {
        Ok(Session(Box::new(self.connect_until(u64::MAX).await?)))
    }

    /// As [`Node::connect`], and the connection ends when its generation is cut.
    async fn connect_to_lend(self: &Arc<Self>) -> Result<Live, ConnectError> {
        let generation = self.generation.load(Ordering::Acquire);
        self.connect_until(generation).await
    }

    async fn connect_until(self: &Arc<Self>, generation: u64) -> Result<Live, ConnectError> {
        let limit = self.connect_timeout;
        let (client, connection) = timeout(limit, self.open(drop))
            .await
            .map_err(|_| ConnectError::Timeout { limit })??;
        let node = Arc::clone(self);
        let mut cut = self.cut.subscribe();
        let driver = tokio::spawn(async move {
            tokio::select! {
                () = connection => {}
                _ = cut.wait_for(|cut| *cut > generation) => {}
            }
            node.kick.notify_one();
        });
        Ok(Live {
            client,
            node: Arc::clone(self),
            generation,
            pid: 0,
            life: Life::default(),
            statements: Statements::default(),
            driver: driver.abort_handle(),
        })
    }

    /// A connection outside of the pools. `heard` gets what the server says by itself; who runs the driver owns the socket.
    pub(crate) async fn open(
        &self,
        heard: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, Driver), ConnectError> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let connected = self.config.connect(super::tls::connector(tls)).await;
            let (client, connection) = connected.map_err(super::tls::classify)?;
            return Ok((client, drive(connection, heard)));
        }
        let (client, connection) = self.config.connect(NoTls).await?;
        Ok((client, drive(connection, heard)))
    }

    pub(crate) async fn cancel_by_protocol(&self, session: &Session) {
        let token = session.client.cancel_token();
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let _ = token.cancel_query(super::tls::connector(tls)).await;
            return;
        }
        let _ = token.cancel_query(NoTls).await;
    }
}

pub(crate) type Pool = managed::Pool<Manager>;
pub(crate) type Object = managed::Object<Manager>;

/// Makes and checks pooled connections.
pub(crate) struct Manager {
    pub(crate) node: Arc<Node>,
    /// Weak, because the pools are part of it.
    pub(crate) view: Weak<ArcSwap<Snapshot>>,
    /// Of the pool for a primary: what its node's other pool has left.
    pub(crate) spare: Option<Arc<Spare>>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the view, which has the pools, and with them this, in it.
        f.debug_struct("Manager")
            .field("node", &self.node.name)
            .finish_non_exhaustive()
    }
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = ConnectError;

    async fn create(&self) -> Result<Session, ConnectError> {
        const WHO: &str = "SELECT pg_is_in_recovery(), \
             (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, pg_backend_pid(), \
             (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_activity \
              WHERE backend_type = 'checkpointer')";
        let limit = self.node.connect_timeout;
        let index = self.node.index;
        let shared = self.view.upgrade().ok_or(ConnectError::Closed)?;
        if let Some(spare) = &self.spare {
            let view = shared.load();
            let node = &view.nodes[index];
            if view.primary == Ok(index)
                && let Some(session) = spare.take(node.generation, node.started)
            {
                return Ok(session);
            }
        }
        let turn = timeout(limit, self.node.connecting.acquire()).await;
        let _turn = turn
            .map_err(|_| ConnectError::Timeout { limit })?
            .map_err(|_| ConnectError::Closed)?;
        // Boxed, or everybody's futures would be as deep as a handshake, and the compiler has a limit.
        let mut session = Box::pin(self.node.connect_to_lend()).await?;
        let answer = timeout(limit, session.client.simple_query(WHO))
            .await
            .map_err(|_| ConnectError::Timeout { limit })??;
        let row = first_row(&answer).ok_or(ConnectError::Changed)?;
        let view = shared.load();
        let node = &view.nodes[index];
        // Within a life of its server a session changes its role at most once, when a standby is promoted.
        let primary = view.primary == Ok(index);
        let same = row.get(0) == Some(if primary { "f" } else { "t" })
            && row.get(1).and_then(|text| text.parse().ok()) == node.started
            && session.generation == node.generation;
        if !same {
            self.node.kick.notify_one();
            return Err(ConnectError::Changed);
        }
        session.pid = field(row, 2).unwrap_or_default();
        session.life = Life {
            started: node.started.unwrap_or_default(),
            checkpointer: field(row, 3).unwrap_or_default(),
        };
        self.node.refusing.store(false, Ordering::Relaxed);
        Ok(Session(Box::new(session)))
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
