//! Reads: from a replica that is known to show enough, else from one that soon will, else from the primary.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::causal::Served;
use super::conn::{Lease, STAND, Stand};
use super::db::Admitted;
use super::history::{Cover, covers};
use super::lsn::Position;
use super::pool::Object;
use super::shared::Snapshot;
use super::{Conn, Consistency, Db, Error};
use crate::routing::read::{Known, Order, Way};

/// Between two looks at a replica that is catching up.
const POLL: Duration = Duration::from_micros(500);

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
        self.read_avoiding(consistency, &[]).await
    }

    /// As [`Db::read_with`], but not on these replicas as long as another node will do.
    pub(crate) async fn read_avoiding(
        &self,
        consistency: Consistency,
        avoided: &[usize],
    ) -> Result<Conn, Error> {
        if let Some(unit) = self.causal.unit() {
            return unit.lock().await.map(Conn::of_unit);
        }
        let settled = self.causal.settle_writes().await;
        let Admitted { token, timeline } = self.admit().await?;
        let known = if settled {
            token.map_or(Known::All, |token| token.known())
        } else {
            Known::Part
        };
        let way = Way::of(consistency, known, &self.router.core.view.load());
        if way == Way::Replica
            && let Some(conn) = self.replica(consistency, avoided).await
        {
            return Ok(conn);
        }
        if way == Way::PrimaryOnly {
            let (index, object) = self.primary(false).await?;
            return Ok(self.lend(index, object, None, "primary"));
        }
        self.fall_back(consistency, timeline).await
    }

    /// What a replica must have replayed for this client.
    fn need(&self) -> Position {
        self.causal
            .token()
            .map(|token| token.need())
            .unwrap_or_default()
    }

    fn need_of(&self, consistency: Consistency) -> Position {
        if consistency == Consistency::ReadYourWrites {
            self.need()
        } else {
            Position::default()
        }
    }

    /// A replica that is fresh enough, or becomes so within `replica_wait`.
    async fn replica(&self, consistency: Consistency, avoided: &[usize]) -> Option<Conn> {
        let core = &self.router.core;
        let view = core.view.load_full();
        let own = consistency == Consistency::ReadYourWrites;
        // What one node shows does not go back, so the one that was read from last needs no proof of what it has shown.
        let sticky = self.causal.last_read();
        let turn = core.turn.fetch_add(1, Ordering::Relaxed);
        let in_use = |index| view.node(index).map_or(0, |node| node.in_use());
        let mut order = Order::new(&view, consistency, sticky, turn).without(avoided);
        while let Some(index) = order.next(Instant::now(), in_use) {
            let here = Served {
                node: index,
                generation: view.nodes[index].generation,
            };
            // What it alone has shown need not be known yet.
            if own && self.causal.has_reads_elsewhere(here) {
                self.causal.settle().await;
            }
            if view.proven(index, self.need_of(consistency)) {
                match core.checkout(&view, index, Duration::ZERO).await {
                    Ok(object) => return Some(self.lend_replica(&view, index, object, "proven")),
                    Err(error) => tracing::debug!(%error, "replica passed over"),
                }
            }
        }
        let need = self.need_of(consistency);
        let mut order = Order::new(&view, consistency, sticky, turn).without(avoided);
        let mut left = order.waits();
        while left > 0
            && let Some(index) = order.next(Instant::now(), in_use)
        {
            if let Some(object) = self.await_replica(&view, index, need).await {
                return Some(self.lend_replica(&view, index, object, "waited"));
            }
            left -= 1;
        }
        None
    }

    fn lend(
        &self,
        index: usize,
        object: Object,
        permit: Option<OwnedSemaphorePermit>,
        how: &'static str,
    ) -> Conn {
        #[cfg(feature = "metrics")]
        super::metrics::read(&object.node.name, how);
        #[cfg(not(feature = "metrics"))]
        let _ = how;
        let causal = Some(self.causal.clone());
        let lease = Lease::new(&self.router, index, object, causal, false);
        Conn::pooled(lease.with_permit(permit))
    }

    fn lend_replica(
        &self,
        view: &Snapshot,
        index: usize,
        object: Object,
        how: &'static str,
    ) -> Conn {
        let generation = view.nodes[index].generation;
        self.causal.set_last_read(Served {
            node: index,
            generation,
        });
        self.lend(index, object, None, how)
    }

    /// Waits for one replica to catch up: a statement of its own, before the read takes its snapshot.
    async fn await_replica(&self, view: &Snapshot, index: usize, need: Position) -> Option<Object> {
        let core = &self.router.core;
        let wait = core.settings.replica_wait;
        let waiting = async {
            let object = core.checkout(view, index, wait).await.ok()?;
            loop {
                let answer = object.client.simple_query(STAND).await.ok()?;
                let stand = Stand::read_on(&answer, &view.nodes[index])?;
                match covers(need, stand.position, core.view.load().history.as_deref()) {
                    Cover::Yes => return Some((object, stand)),
                    Cover::NotYet => tokio::time::sleep(POLL).await,
                    Cover::Lost(_) | Cover::Unprovable => return None,
                }
            }
        };
        let (object, stand) = timeout(wait, waiting).await.ok().flatten()?;
        let node = &view.nodes[index];
        if node.timeline == Some(stand.position.timeline) && object.generation == node.generation {
            node.proof.fetch_max(stand.position.lsn.0, Ordering::AcqRel);
        }
        Some(object)
    }

    /// No replica will do: the primary, or whichever of the nodes comes to be able to serve this until `write_wait` has passed. The
    /// token was judged while `judged` was the newest timeline.
    async fn fall_back(&self, consistency: Consistency, judged: u32) -> Result<Conn, Error> {
        let core = &self.router.core;
        let end = tokio::time::Instant::now() + core.settings.write_wait;
        let mut changes = core.subscribe();
        let mut last = Error::NoReplica;
        let mut judged = judged;
        loop {
            changes.mark_unchanged();
            let view = core.view.load_full();
            if view.timeline != judged {
                // What the wait has brought may not have kept what this client wrote.
                judged = self.admit().await?.timeline;
            }
            match view.primary {
                Ok(index) if view.timeline >= self.need().timeline => {
                    // A primary alone is where reads belong.
                    let permit = if view.present().nth(1).is_none() {
                        None
                    } else {
                        let permit = Arc::clone(&core.fallback).acquire_owned();
                        let Ok(Ok(permit)) = timeout(core.settings.pool_wait, permit).await else {
                            let conn = self.replica(consistency, &[]).await;
                            return conn.ok_or(Error::NoReplica);
                        };
                        Some(permit)
                    };
                    let left = end.saturating_duration_since(tokio::time::Instant::now());
                    let wait = core.settings.pool_wait.min(left);
                    match timeout(left, core.checkout(&view, index, wait)).await {
                        Ok(Ok(object)) => return Ok(self.lend(index, object, permit, "fallback")),
                        Ok(Err(full @ Error::Pool { .. })) => return Err(full),
                        Ok(Err(error)) => last = error,
                        Err(_) => {}
                    }
                }
                _ => {}
            }
            core.kick();
            if tokio::time::timeout_at(end, changes.changed())
                .await
                .is_err()
            {
                return Err(last);
            }
            if let Some(conn) = self.replica(consistency, &[]).await {
                return Ok(conn);
            }
        }
    }
}
