//! A connection on loan.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::causal::{Causal, Unsettled};
use super::lsn::{Lsn, Position};
use super::pool::{Object, Session, field, first_row};
use super::router::{Core, Router};

/// How long a connection that was given back may take to say where it stands. After it, it is closed.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);

/// Where a connection stands, and whether it was given back inside a transaction: then its clocks differ.
///
/// A commit is acknowledged when a synchronous standby has confirmed it, while the primary's own flush position may
/// already cover what others have written and nobody has confirmed; so the two are told apart.
pub(crate) const STAND: &str = "SELECT (now() <> statement_timestamp())::int, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> '' THEN \
        (SELECT max(flush_lsn) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END";

/// An answer to [`STAND`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand {
    pub(crate) in_transaction: bool,
    pub(crate) position: Position,
    pub(crate) confirmed: Option<Lsn>,
    pub(crate) inserted: Option<Lsn>,
}

impl Stand {
    pub(crate) fn read(
        answer: &[tokio_postgres::SimpleQueryMessage],
        known_timeline: Option<u32>,
    ) -> Option<Self> {
        let row = first_row(answer)?;
        let timeline = field(row, 2).or_else(|| field(row, 3)).or(known_timeline)?;
        Some(Self {
            in_transaction: field::<u8>(row, 0)? == 1,
            position: Position {
                timeline,
                lsn: field(row, 1)?,
            },
            confirmed: field(row, 4),
            inserted: field(row, 5),
        })
    }
}

/// A pooled connection, and everything that has to happen when it is given back.
pub(crate) struct Lease {
    object: Option<Object>,
    core: Arc<Core>,
    pub(crate) index: usize,
    causal: Option<Causal>,
    write: bool,
    /// The system id when it was lent.
    system_id: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    pub(crate) fn new(
        router: &Router,
        index: usize,
        object: Object,
        causal: Option<Causal>,
        write: bool,
    ) -> Self {
        let core = Arc::clone(&router.core);
        let system_id = core.view.load().system_id.unwrap_or(0);
        Self {
            object: Some(object),
            core,
            index,
            causal,
            write,
            system_id,
            permit: None,
        }
    }

    pub(crate) fn with_permit(mut self, permit: Option<OwnedSemaphorePermit>) -> Self {
        self.permit = permit;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.core.nodes[self.index].name
    }

    pub(crate) fn client(&self) -> &Client {
        match &self.object {
            Some(object) => &object.client,
            None => unreachable!("a lease is used only before it is given back"),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn causal(&self) -> Option<&Causal> {
        self.causal.as_ref()
    }

    pub(crate) fn system_id(&self) -> u64 {
        self.system_id
    }

    pub(crate) fn unsettled(&self) -> Option<Unsettled> {
        let causal = self.causal.as_ref()?;
        Some(causal.unsettled(self.system_id, self.write))
    }

    pub(crate) fn known_timeline(&self) -> Option<u32> {
        self.core.view.load().nodes[self.index].timeline
    }

    /// Puts the connection back without asking where it stands: the caller has just seen it outside a transaction.
    pub(crate) fn give_back_clean(mut self) {
        drop(self.object.take());
    }

    /// Closes the connection; the server ends its transaction.
    pub(crate) fn discard(mut self) {
        drop(self.object.take().map(Object::take));
    }

    /// Rolls back in the background and puts the connection back, or closes it.
    pub(crate) fn give_back_rolled_back(mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        let permit = self.permit.take();
        self.core.runtime.spawn(async move {
            let _permit = permit;
            let rolled_back = timeout(SETTLE_LIMIT, object.client.batch_execute("ROLLBACK")).await;
            give_back(object, matches!(rolled_back, Ok(Ok(()))));
        });
    }
}

fn give_back(object: Object, clean: bool) {
    if clean {
        drop(object);
    } else {
        drop(Object::take(object) as Session);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        let unsettled = self.unsettled();
        let (core, index, write) = (Arc::clone(&self.core), self.index, self.write);
        let permit = self.permit.take();
        // Whoever forgot a BEGIN, or was cancelled within a query, must not hand that on to the next.
        self.core.runtime.spawn(async move {
            let _permit = permit;
            let answer = timeout(SETTLE_LIMIT, object.client.simple_query(STAND)).await;
            let view = core.view.load();
            let node = &view.nodes[index];
            let stand = match &answer {
                Ok(Ok(rows)) => Stand::read(rows, node.timeline),
                _ => None,
            };
            if let Some(stand) = stand {
                let position = stand.position;
                if object.generation == node.generation && node.timeline == Some(position.timeline)
                {
                    node.proof
                        .fetch_max(position.lsn.0, std::sync::atomic::Ordering::AcqRel);
                }
                if let Some(unsettled) = unsettled {
                    let lsn = stand.confirmed.unwrap_or(position.lsn);
                    let written = if write {
                        Position { lsn, ..position }
                    } else {
                        Position::default()
                    };
                    unsettled.at(written, position);
                }
            }
            give_back(object, stand.is_some_and(|stand| !stand.in_transaction));
        });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("node", &self.name())
            .field("write", &self.write)
            .finish()
    }
}

/// A connection on loan: dereferences to the [`Client`], so that every query method is there.
///
/// When it is dropped, the router asks it where it stands (that becomes part of the client's token) and puts it back. One
/// that was left inside a transaction, or does not answer, is closed instead. Settings made with `SET` stay: use `SET LOCAL`.
#[derive(Debug)]
pub struct Conn(Inner);

#[derive(Debug)]
enum Inner {
    Pooled(Lease),
    Unit(OwnedMutexGuard<Lease>),
}

impl Conn {
    pub(crate) fn pooled(lease: Lease) -> Self {
        Self(Inner::Pooled(lease))
    }

    pub(crate) fn of_unit(guard: OwnedMutexGuard<Lease>) -> Self {
        Self(Inner::Unit(guard))
    }

    fn lease(&self) -> &Lease {
        match &self.0 {
            Inner::Pooled(lease) => lease,
            Inner::Unit(guard) => guard,
        }
    }

    /// The configured name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        self.lease().name()
    }
}

impl Deref for Conn {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lease().client()
    }
}
