//! Reads: from a replica that is known to show enough, else from one that soon will, else from the primary.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{timeout, timeout_at};

use super::causal::{Causal, Served};
use super::conn::{Lease, Place};
use super::db::{Admitted, lend_primary};
use super::deadline::after;
use super::lsn::Position;
use super::members::Member;
use super::pool::Object;
use super::primary::AGAIN;
use super::role::Role;
use super::shared::{Core, Snapshot};
use super::view::Verdict;
use super::{Conn, Consistency, Db, Error};
use crate::routing::read::{Known, NodeSet, Order, Way};

impl Db {
    /// A connection for a read that shows everything this client has written ([`Consistency::ReadYourWrites`]).
    ///
    /// # Errors
    /// As [`Db::read_with`].
    ///
    /// # Cancel safety
    /// As [`Router::read`](super::Router::read).
    pub async fn read(&self) -> Result<Conn, Error> {
        self.read_with(Consistency::ReadYourWrites).await
    }

    /// A connection for a read: a replica that is known to be fresh enough, else one that becomes so within `replica_wait`, else
    /// the primary (at most `fallback_reads` at a time). Of several, the one with the fewest connections in use, in this process's
    /// own locality first. While there is no primary, replicas too far behind to be preferred serve what they can prove.
    ///
    /// # Errors
    /// [`Error::Lost`] once when an acknowledged write of this client is gone. [`Error::NoReplica`],
    /// [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// As [`Router::read`](super::Router::read).
    pub async fn read_with(&self, consistency: Consistency) -> Result<Conn, Error> {
        self.read_avoiding(consistency, NodeSet::EMPTY).await
    }

    /// As [`Db::read_with`], but not on these nodes as long as another one will do.
    pub(crate) async fn read_avoiding(
        &self,
        consistency: Consistency,
        avoided: NodeSet,
    ) -> Result<Conn, Error> {
        read(&self.router.core, Some(&self.causal), consistency, avoided).await
    }
}

/// A connection for a read of a client, or of nobody in particular.
pub(crate) async fn read(
    core: &Arc<Core>,
    causal: Option<&Causal>,
    consistency: Consistency,
    mut avoided: NodeSet,
) -> Result<Conn, Error> {
    let reading = Reading {
        core,
        causal,
        consistency,
    };
    if let Some((replica, place)) = reading.proven(avoided) {
        let lent = replica.member.checkout(
            &replica.member.replica_pool,
            replica.generation,
            Duration::ZERO,
        );
        match lent.await {
            Ok(object) => return Ok(reading.lend_replica(place, object, "proven")),
            Err(Error::Pool { .. }) => {}
            Err(error) => {
                tracing::debug!(%error, "replica passed over");
                avoided = avoided.with(place.index);
            }
        }
    }
    // Boxed, so that a read with a proof does not carry it along.
    Box::pin(reading.search(avoided)).await
}

/// A replica, in the life in which it was chosen.
struct Replica {
    member: Arc<Member>,
    generation: u64,
}

#[derive(Clone, Copy)]
struct Reading<'a> {
    core: &'a Arc<Core>,
    causal: Option<&'a Causal>,
    consistency: Consistency,
}

impl Reading<'_> {
    fn is_own(&self) -> bool {
        self.consistency == Consistency::ReadYourWrites
    }

    fn order<'v>(&self, view: &'v Snapshot, sticky: Option<Served>, avoided: NodeSet) -> Order<'v> {
        let turn = self.core.turn.fetch_add(1, Ordering::Relaxed);
        Order::new(view, self.consistency, sticky, turn).without(avoided)
    }

    /// The best replica, if it is known by what is known already: one look at the client's context, and one at the topology.
    fn proven(&self, avoided: NodeSet) -> Option<(Replica, Place)> {
        let glance = self.causal.map(Causal::glance).unwrap_or_default();
        if glance.busy {
            return None;
        }
        let view = self.core.view.load();
        let mut known = Known::All;
        let mut need = Position::default();
        if let Some(token) = glance.token {
            known = token.known();
            let (written, seen) = (token.written(), token.seen());
            let stands = view.judge(token.system_id(), written, seen, known) == Verdict::Stands;
            if !stands || token.need().timeline > view.timeline {
                return None;
            }
            if self.is_own() {
                need = token.need();
            }
        }
        if Way::of(self.consistency, known, &view) != Way::Replica {
            return None;
        }
        let now = Instant::now();
        let mut order = self.order(&view, glance.last_read, avoided);
        while let Some(index) = order.next(now, |index| view.busy(index)) {
            let replica = view.replica(index)?;
            // What it alone has shown need not be known yet.
            if self.is_own() && glance.has_reads_elsewhere(replica.served()) {
                return None;
            }
            if view.proven(index, need) {
                return Some((replica, view.place(index)));
            }
        }
        None
    }

    async fn search(&self, avoided: NodeSet) -> Result<Conn, Error> {
        if let Some(unit) = self.causal.and_then(Causal::unit) {
            return unit.lock().await.map(Conn::of_unit);
        }
        let settled = match self.causal {
            Some(causal) => causal.settle_writes().await,
            None => true,
        };
        let Admitted { token, timeline } = self.admit().await?;
        let known = if settled {
            token.map_or(Known::All, |token| token.known())
        } else {
            Known::Part
        };
        let way = Way::of(self.consistency, known, &self.core.view.load());
        if way == Way::Replica
            && let Some(conn) = self.replica(avoided).await
        {
            return Ok(conn);
        }
        if way == Way::PrimaryOnly {
            let lease = lend_primary(self.core, self.causal, false, false).await?;
            return Ok(lent(lease, "primary"));
        }
        self.fall_back(timeline, avoided).await
    }

    async fn admit(&self) -> Result<Admitted, Error> {
        match self.causal {
            Some(causal) => self.core.admit(causal).await,
            None => Ok(Admitted::default()),
        }
    }

    /// What a node must have for this client, and what a replica must have replayed for this read.
    fn need(&self) -> Position {
        let token = self.causal.and_then(Causal::token);
        token.map(|token| token.need()).unwrap_or_default()
    }

    fn need_of_replica(&self) -> Position {
        if self.is_own() {
            self.need()
        } else {
            Position::default()
        }
    }

    /// A replica that is fresh enough, or becomes so within `replica_wait`.
    async fn replica(&self, avoided: NodeSet) -> Option<Conn> {
        let core = self.core;
        let view = core.view.load_full();
        let glance = || self.causal.map(Causal::glance).unwrap_or_default();
        // What one node shows does not go back, so the one that was read from last needs no proof of what it has shown.
        let sticky = glance().last_read;
        let mut order = self.order(&view, sticky, avoided);
        while let Some(index) = order.next(Instant::now(), |index| view.busy(index)) {
            let Some(replica) = view.replica(index) else {
                continue;
            };
            if let Some(causal) = self.causal
                && self.is_own()
                && glance().has_reads_elsewhere(replica.served())
            {
                causal.settle().await;
            }
            if view.proven(index, self.need_of_replica()) {
                match core.checkout(&view, index, Duration::ZERO).await {
                    Ok(object) => {
                        return Some(self.lend_replica(view.place(index), object, "proven"));
                    }
                    Err(error) => tracing::debug!(%error, "replica passed over"),
                }
            }
        }
        let need = self.need_of_replica();
        let mut order = self.order(&view, sticky, avoided);
        let mut left = order.waits();
        while left > 0
            && let Some(index) = order.next(Instant::now(), |index| view.busy(index))
        {
            if let Some(Replica { member, generation }) = view.replica(index)
                && let Some(object) = core.await_replica(&member, generation, need).await
            {
                return Some(self.lend_replica(view.place(index), object, "waited"));
            }
            left -= 1;
        }
        None
    }

    fn lend(
        &self,
        place: Place,
        object: Object,
        permit: Option<OwnedSemaphorePermit>,
        how: &'static str,
    ) -> Conn {
        let lease = Lease::new(self.core, place, object, self.causal, false);
        lent(lease.with_permit(permit), how)
    }

    fn lend_replica(&self, place: Place, object: Object, how: &'static str) -> Conn {
        if let Some(causal) = self.causal {
            causal.set_last_read(Served {
                node: place.index,
                generation: object.generation,
            });
        }
        self.lend(place, object, None, how)
    }

    /// No replica will do: the primary, or whichever of the nodes comes to be able to serve this until `write_wait` has passed. The
    /// token was judged while `judged` was the newest timeline.
    async fn fall_back(&self, mut judged: u32, avoided: NodeSet) -> Result<Conn, Error> {
        let core = self.core;
        let end = after(core.settings.write_wait);
        let mut changes = core.subscribe();
        let mut waiting = None;
        let mut attempt = 0;
        let mut last = Error::NoReplica;
        loop {
            changes.mark_unchanged();
            let view = core.view.load_full();
            if self.causal.is_some() && view.timeline != judged {
                // What the wait has brought may not have kept what this client wrote.
                judged = self.admit().await?.timeline;
            }
            let mut pause = end;
            if let Ok(index) = view.primary
                && view.timeline >= self.need().timeline
            {
                // A primary alone is where reads belong.
                let permit = if view.is_single() {
                    None
                } else {
                    let permit = Arc::clone(&core.fallback).acquire_owned();
                    let Ok(Ok(permit)) = timeout(core.settings.pool_wait, permit).await else {
                        return self.any_replica(avoided).await.ok_or(Error::NoReplica);
                    };
                    Some(permit)
                };
                match core.lend_by(&view, index, false, end).await {
                    Some(Ok(object)) => {
                        return Ok(self.lend(view.place(index), object, permit, "fallback"));
                    }
                    Some(Err(full @ Error::Pool { .. })) => return Err(full),
                    Some(Err(error)) => {
                        last = error;
                        let rest = AGAIN.delay(attempt, fastrand::u64(..));
                        attempt = attempt.saturating_add(1);
                        pause = after(rest);
                    }
                    // It is not the primary any more.
                    None => pause = after(Duration::ZERO),
                }
            }
            waiting.get_or_insert_with(|| core.wait());
            let _ = timeout_at(pause.min(end), changes.changed()).await;
            if end <= after(Duration::ZERO) {
                return Err(last);
            }
            let conn = if view.primary.is_ok() {
                self.replica(avoided).await
            } else {
                self.any_replica(avoided).await
            };
            if let Some(conn) = conn {
                return Ok(conn);
            }
        }
    }

    /// One that is to be avoided is better than none.
    async fn any_replica(&self, avoided: NodeSet) -> Option<Conn> {
        match self.replica(avoided).await {
            None if avoided != NodeSet::EMPTY => self.replica(NodeSet::EMPTY).await,
            conn => conn,
        }
    }
}

fn lent(lease: Lease, how: &'static str) -> Conn {
    #[cfg(feature = "metrics")]
    super::metrics::read(&lease.session().node.name, how);
    #[cfg(not(feature = "metrics"))]
    let _ = how;
    Conn::pooled(lease)
}

impl Replica {
    fn served(&self) -> Served {
        Served {
            node: self.member.node.index,
            generation: self.generation,
        }
    }
}

impl Snapshot {
    fn replica(&self, index: usize) -> Option<Replica> {
        Some(Replica {
            member: Arc::clone(self.members[index].as_ref()?),
            generation: self.nodes[index].generation,
        })
    }

    /// Whether there is one server, whatever its names.
    fn is_single(&self) -> bool {
        let mut servers = self
            .present()
            .filter(|(_, seen)| seen.role != Role::Duplicate);
        servers.nth(1).is_none()
    }
}
