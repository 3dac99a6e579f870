//! A connection on loan.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedMappedMutexGuard, OwnedSemaphorePermit};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::causal::{Causal, Served, Unsettled};
use super::lsn::{Lsn, Position};
use super::members::InUse;
use super::pool::{Object, Session, field, first_row};
use super::probe::CEILING;
use super::resolve::InDoubt;
use super::role::Role;
use super::router::{Core, Router};
use super::token::Known;
use super::view::NodeView;

/// How long a connection that was given back may take to say where it stands, before the primary is asked in its place. Half
/// of what [`Causal::settle`] waits.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_millis(250);

/// How long it may take to become usable again. After it, it is closed.
const REUSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection lent to a unit of work, for one user at a time.
pub(crate) type Guard = OwnedMappedMutexGuard<Option<Lease>, Lease>;

/// Where a connection stands, and whether it was given back inside a transaction: then its clocks differ.
///
/// A commit is acknowledged when a synchronous standby has confirmed it, while the primary's own flush position may
/// already cover what others have written and nobody has confirmed; so the two are told apart.
///
/// It is asked after every use of a connection, so it names functions and not the views over them, which take three times as
/// long to plan.
pub(crate) const STAND: &str = "SELECT (now() <> statement_timestamp())::int, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_get_wal_receiver()) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> '' THEN \
        (SELECT max(flush_lsn) FROM pg_stat_get_wal_senders() WHERE sync_state IN ('sync', 'quorum')) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END, \
    current_setting('synchronous_commit')";

/// An answer to [`STAND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) in_transaction: bool,
    pub(crate) position: Position,
    confirmed: Option<Lsn>,
    /// Of a primary only.
    inserted: Option<Lsn>,
    /// Whether a commit waits for this server's own disk, and for a standby's.
    local: bool,
    remote: bool,
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
            local: row.get(6) != Some("off"),
            remote: matches!(row.get(6), Some("on" | "remote_apply")),
        })
    }

    /// What a transaction commits under `synchronous_commit = setting` waits for less, or more, than the session's.
    pub(crate) fn under(mut self, setting: &str) -> Self {
        self.local = setting != "off";
        self.remote = matches!(setting, "on" | "remote_apply");
        self
    }

    /// As [`Stand::read`], with what is known of the node where it does not name its timeline.
    pub(crate) fn read_on(
        answer: &[tokio_postgres::SimpleQueryMessage],
        node: &NodeView,
    ) -> Option<Self> {
        let lsn = field(first_row(answer)?, 1)?;
        Self::read(answer, node.timeline_at(lsn))
    }

    pub(crate) fn of_primary(&self) -> bool {
        self.inserted.is_some()
    }

    /// A position that covers what was visible here. On a primary with a synchronous standby a commit shows only when it
    /// is confirmed; what is flushed may go further, and a failover cut it off.
    pub(crate) fn visible(&self) -> Position {
        let Position { timeline, lsn } = self.position;
        let lsn = self.confirmed.unwrap_or(lsn);
        Position { timeline, lsn }
    }

    /// A position that covers what this session has committed, after `start` if that is known.
    pub(crate) fn written(&self, start: Option<Lsn>) -> Position {
        let Position { timeline, lsn } = self.position;
        let lsn = if !self.local {
            self.inserted.unwrap_or(lsn)
        } else if self.remote {
            // What a synchronous standby has confirmed past the start of a commit covers that commit.
            let covering = |confirmed: &Lsn| start.is_none_or(|start| *confirmed > start);
            self.confirmed.filter(covering).unwrap_or(lsn)
        } else {
            lsn
        };
        Position { timeline, lsn }
    }
}

/// A pooled connection, and everything that has to happen when it is given back.
pub(crate) struct Lease {
    object: Option<Object>,
    core: Arc<Core>,
    pub(crate) index: usize,
    causal: Option<Causal>,
    write: bool,
    /// Inside a transaction of ours: given back, it is rolled back.
    begun: bool,
    savepoints: AtomicU64,
    /// Has been told to cancel something; that may reach it late, so it must not be lent again.
    tainted: AtomicBool,
    /// What finds out about its transaction if its commit is not answered.
    doubt: Option<InDoubt>,
    /// The system id when it was lent.
    system_id: u64,
    permit: Option<OwnedSemaphorePermit>,
    in_use: InUse,
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
            in_use: InUse::of(&object.node),
            object: Some(object),
            core,
            index,
            causal,
            write,
            begun: false,
            savepoints: AtomicU64::new(0),
            tainted: AtomicBool::new(false),
            doubt: None,
            system_id,
            permit: None,
        }
    }

    pub(crate) fn with_permit(mut self, permit: Option<OwnedSemaphorePermit>) -> Self {
        self.permit = permit;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.in_use.node().name
    }

    pub(crate) fn session(&self) -> &Session {
        match &self.object {
            Some(object) => object,
            None => unreachable!("a lease is used only before it is given back"),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.session().client
    }

    /// Whether each of its statements commits by itself.
    pub(crate) fn is_autocommit(&self) -> bool {
        self.write && !self.begun
    }

    pub(crate) fn taint(&self) {
        self.tainted.store(true, Ordering::Release);
    }

    /// Its transaction has this number, and `mark` follows a record under it.
    pub(crate) fn resolvable(&mut self, xid: u64, mark: Position) {
        let life = self.session().life;
        self.doubt = Some(InDoubt::new(self.system_id, self.index, life, xid, mark));
    }

    pub(crate) fn doubt(&self) -> Option<InDoubt> {
        self.doubt
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

    /// What is said next is sent inside a transaction of ours.
    pub(crate) fn begun(&mut self) {
        self.begun = true;
    }

    /// A number that no savepoint of this transaction has had.
    pub(crate) fn next_savepoint(&self) -> u64 {
        self.savepoints.fetch_add(1, Ordering::Relaxed)
    }

    /// Announces a commit.
    pub(crate) fn committing(&self) -> Option<Unsettled> {
        let causal = self.causal.as_ref()?;
        Some(causal.unsettled(
            self.system_id,
            Known::Acknowledged,
            Position::default(),
            None,
        ))
    }

    fn unsettled(&self) -> Option<Unsettled> {
        let causal = self.causal.as_ref()?;
        let node = &self.core.view.load().nodes[self.index];
        // What ends in a rollback has only read.
        let (lost, floor) = if self.write && !self.begun {
            (Known::Part, None)
        } else {
            let same = |object: &&Object| {
                node.role == Role::Replica && object.generation == node.generation
            };
            let floor = self.object.as_ref().filter(same);
            (Known::All, floor.and_then(|_| node.replayed()))
        };
        let on = self.object.as_ref().map(|object| Served {
            node: self.index,
            generation: object.generation,
        });
        Some(causal.unsettled(self.system_id, lost, floor.unwrap_or_default(), on))
    }

    pub(crate) fn known_timeline(&self) -> Option<u32> {
        self.core.view.load().nodes[self.index].timeline
    }

    /// Puts the connection back without asking where it stands: the caller has just seen it outside a transaction.
    pub(crate) fn give_back_clean(mut self) {
        let tainted = self.tainted.load(Ordering::Acquire);
        if let Some(object) = self.object.take() {
            give_back(object, !tainted);
        }
    }

    /// Closes the connection; the server ends its transaction.
    pub(crate) fn discard(mut self) {
        drop(self.object.take().map(Object::take));
    }

    /// Was rolled back; where that happened is still asked for.
    pub(crate) fn give_back_ended(mut self) {
        self.begun = false;
        self.write = false;
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
        if self.object.is_none() {
            return;
        }
        let unsettled = self.unsettled();
        let Some(object) = self.object.take() else {
            return;
        };
        let (core, index, begun) = (Arc::clone(&self.core), self.index, self.begun);
        let write = self.is_autocommit();
        let mut tainted = self.tainted.load(Ordering::Acquire);
        let permit = self.permit.take();
        // Whoever forgot a BEGIN, or was cancelled within a query, must not hand that on to the next.
        self.core.runtime.spawn(async move {
            let _permit = permit;
            let mut unsettled = unsettled;
            let answer = {
                let mut asking = pin!(async {
                    if begun {
                        object.client.batch_execute("ROLLBACK").await.ok()?;
                    }
                    object.client.simple_query(STAND).await.ok()
                });
                let early = timeout(SETTLE_LIMIT, asking.as_mut()).await;
                if early.is_err() {
                    // Something of its last user still runs, and nobody waits for it.
                    tainted = true;
                    object.node.cancel(&object, write).await;
                }
                if !write && !matches!(early, Ok(Some(_))) {
                    // The primary has at least what any replica has shown.
                    let asked = timeout(SETTLE_LIMIT, core.ask_primary(index)).await;
                    if let (Ok(Some(stand)), Some(unsettled)) = (asked, unsettled.take()) {
                        unsettled.at(Position::default(), stand.visible(), stand.of_primary());
                    }
                }
                match early {
                    Ok(answer) => answer,
                    Err(_) => timeout(REUSE_LIMIT, asking).await.ok().flatten(),
                }
            };
            let view = core.view.load_full();
            let node = &view.nodes[index];
            let stand = match answer {
                None => None,
                Some(rows) => match Stand::read_on(&rows, node) {
                    // What it has on its disk is of no later timeline.
                    None => {
                        let asking = object.client.simple_query(CEILING);
                        let ceiling = timeout(SETTLE_LIMIT, asking).await.ok();
                        let ceiling = ceiling.and_then(Result::ok);
                        let ceiling = ceiling.as_deref().and_then(first_row);
                        Stand::read(&rows, ceiling.and_then(|row| field(row, 0)))
                    }
                    stand => stand,
                },
            };
            if let Some(stand) = stand {
                if write && !stand.of_primary() {
                    // Demoted under its sessions: whatever was tried there has met a read-only server.
                    core.kick();
                }
                let position = stand.position;
                if object.generation == node.generation && node.timeline == Some(position.timeline)
                {
                    node.proof.fetch_max(position.lsn.0, Ordering::AcqRel);
                }
                if let Some(unsettled) = unsettled {
                    let written = if write {
                        stand.written(None)
                    } else {
                        Position::default()
                    };
                    unsettled.at(written, stand.visible(), stand.of_primary());
                }
            }
            let clean = stand.is_some_and(|stand| !stand.in_transaction);
            give_back(object, clean && !tainted);
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
/// that was left inside a transaction, or does not answer, is closed instead, and what still runs on it is cancelled on the server
/// after 250 ms. Settings made with `SET` stay: use `SET LOCAL`.
#[derive(Debug)]
pub struct Conn(Inner);

#[derive(Debug)]
enum Inner {
    Pooled(Box<Lease>),
    Unit(Guard),
}

impl Conn {
    pub(crate) fn pooled(lease: Lease) -> Self {
        Self(Inner::Pooled(Box::new(lease)))
    }

    pub(crate) fn of_unit(guard: Guard) -> Self {
        Self(Inner::Unit(guard))
    }

    pub(crate) fn lease(&self) -> &Lease {
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

    /// The node, if it was chosen for this connection alone.
    pub(crate) fn index(&self) -> Option<usize> {
        match &self.0 {
            Inner::Pooled(lease) => Some(lease.index),
            Inner::Unit(_) => None,
        }
    }
}

impl Deref for Conn {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lease().client()
    }
}
