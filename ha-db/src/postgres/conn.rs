//! A connection on loan.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{OwnedMappedMutexGuard, OwnedSemaphorePermit};
use tokio_postgres::Client;

use super::causal::{Causal, Served, Unsettled};
use super::give_back::{Left, Returned, give_back};
use super::lsn::Position;
use super::pool::{Object, Session};
use super::resolve::InDoubt;
use super::role::Role;
use super::router::Core;
use super::token::Known;

/// A connection lent to a unit of work, for one user at a time.
pub(crate) type Guard = OwnedMappedMutexGuard<Option<Lease>, Lease>;

/// Where a connection leads to, as it was known when that was chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
}

/// A pooled connection, and everything that has to happen when it is given back.
pub(crate) struct Lease {
    object: Option<Object>,
    core: Arc<Core>,
    place: Place,
    causal: Option<Causal>,
    write: bool,
    /// Inside a transaction of ours: given back, it is rolled back.
    begun: bool,
    /// Its COMMIT is on the way, and no answer to it has come.
    ending: AtomicBool,
    /// Has been told to cancel something; that may reach it late, so it must not be lent again.
    tainted: AtomicBool,
    savepoints: AtomicU64,
    /// What finds out about its transaction if its commit is not answered.
    doubt: Option<Box<InDoubt>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    pub(crate) fn new(
        core: &Arc<Core>,
        place: Place,
        object: Object,
        causal: Option<&Causal>,
        write: bool,
    ) -> Self {
        object.node.lend();
        Self {
            object: Some(object),
            core: Arc::clone(core),
            place,
            causal: causal.cloned(),
            write,
            begun: false,
            ending: AtomicBool::new(false),
            tainted: AtomicBool::new(false),
            savepoints: AtomicU64::new(0),
            doubt: None,
            permit: None,
        }
    }

    pub(crate) fn with_permit(mut self, permit: Option<OwnedSemaphorePermit>) -> Self {
        self.permit = permit;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.session().node.name
    }

    fn take(&mut self) -> Option<Object> {
        let object = self.object.take()?;
        object.node.take_back();
        Some(object)
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
        self.doubt = Some(Box::new(InDoubt::new(
            self.place.system_id,
            self.place.index,
            life,
            xid,
            mark,
        )));
    }

    pub(crate) fn doubt(&self) -> Option<Box<InDoubt>> {
        self.doubt.clone()
    }

    /// From now on until it is answered, what runs is a COMMIT.
    pub(crate) fn ending(&self, ending: bool) {
        self.ending.store(ending, Ordering::Release);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn causal(&self) -> Option<&Causal> {
        self.causal.as_ref()
    }

    pub(crate) fn system_id(&self) -> u64 {
        self.place.system_id
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
            self.place.system_id,
            self.place.timeline,
            Known::Acknowledged,
            Position::default(),
            None,
        ))
    }

    fn unsettled(&self) -> Option<Unsettled> {
        let causal = self.causal.as_ref()?;
        let view = self.core.view.load();
        let node = &view.nodes[self.place.index];
        // What ends in a rollback has only read.
        let (lost, floor) = if self.is_autocommit() {
            (Known::Part, None)
        } else {
            let same = |object: &&Object| {
                node.role == Role::Replica && object.generation == node.generation
            };
            let floor = self.object.as_ref().filter(same);
            (Known::All, floor.and_then(|_| node.replayed()))
        };
        let on = self.object.as_ref().map(|object| Served {
            node: self.place.index,
            generation: object.generation,
        });
        let floor = floor.unwrap_or_default();
        Some(causal.unsettled(self.place.system_id, self.place.timeline, lost, floor, on))
    }

    /// The timeline of its node when it was lent.
    pub(crate) fn timeline(&self) -> u32 {
        self.place.timeline
    }

    /// Puts the connection back without asking where it stands: the caller has just seen it outside a transaction.
    pub(crate) fn give_back_clean(mut self) {
        let tainted = self.tainted.load(Ordering::Acquire);
        if let Some(object) = self.take() {
            give_back(object, !tainted);
        }
    }

    /// Closes the connection; the server ends its transaction.
    pub(crate) fn discard(mut self) {
        drop(self.take().map(Object::take));
    }

    /// Was rolled back; where that happened is still asked for.
    pub(crate) fn give_back_ended(mut self) {
        self.begun = false;
        self.write = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.object.is_none() {
            return;
        }
        let unsettled = self.unsettled();
        let Some(object) = self.take() else {
            return;
        };
        let left = if *self.ending.get_mut() {
            Left::Commit
        } else if self.is_autocommit() {
            Left::Autocommit
        } else {
            Left::Nothing
        };
        let returned = Returned {
            object,
            core: Arc::clone(&self.core),
            index: self.place.index,
            left,
            write: self.write,
            begun: self.begun,
            tainted: *self.tainted.get_mut(),
            unsettled,
            permit: self.permit.take(),
        };
        self.core.runtime.spawn(returned.settle());
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
    Pooled(Lease),
    Unit(Guard),
}

impl Conn {
    pub(crate) fn pooled(lease: Lease) -> Self {
        Self(Inner::Pooled(lease))
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
            Inner::Pooled(lease) => Some(lease.place.index),
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
