//! A router as one client sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::causal::Served;
use super::conn::{Lease, STAND, Stand};
use super::history::{Cover, covers};
use super::lsn::Position;
use super::pool::Object;
use super::status::Role;
use super::token::Known;
use super::topology::View;
use super::{Causal, Conn, Error, Router, Token, Transaction, TransactionOptions};

/// Between two looks at a replica that is catching up.
const POLL: Duration = Duration::from_micros(500);

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// Any state of the past, from a replica within `max_lag` if there is one.
    Eventual,
    /// At most this far behind the primary. Less than a probe interval can only be met by the primary.
    Bounded(Duration),
    /// Everything that this client has written, and nothing older than it has seen.
    #[default]
    ReadYourWrites,
    /// The primary.
    Strong,
}

/// A router as one client sees it: reads show what the client has written. Clones share the client's context.
#[derive(Debug, Clone)]
pub struct Db {
    router: Router,
    causal: Causal,
}

impl Db {
    pub(crate) fn new(router: Router, causal: Causal) -> Self {
        Self { router, causal }
    }

    /// The router.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The client's context.
    #[must_use]
    pub fn causal(&self) -> &Causal {
        &self.causal
    }

    /// The client's token, once everything that was given back is accounted for ([`Causal::settle`]).
    pub async fn token(&self) -> Option<Token> {
        self.causal.settle().await
    }

    /// A connection for a read that shows everything this client has written ([`Consistency::ReadYourWrites`]).
    ///
    /// # Errors
    /// As [`Db::read_with`].
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn read(&self) -> Result<Conn, Error> {
        self.read_with(Consistency::ReadYourWrites).await
    }

    /// A connection for a read: a replica that is known to be fresh enough, else one that becomes so within `replica_wait`, else
    /// the primary (at most `fallback_reads` at a time). While there is no primary, replicas too far behind to be preferred serve
    /// what they can prove.
    ///
    /// # Errors
    /// [`Error::Lost`] once when an acknowledged write of this client is gone. [`Error::NoReplica`],
    /// [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`]: nothing was sent.
    ///
    /// # Cancel safety
    /// As [`Router::read`].
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
        let token = self.admit().await?;
        let known = match token {
            _ if consistency != Consistency::ReadYourWrites => Known::All,
            _ if !settled => Known::Part,
            token => token.map_or(Known::All, |token| token.known()),
        };
        let on_primary = match known {
            Known::All => consistency == Consistency::Strong,
            Known::Acknowledged => self.router.core.view.load().primary.is_ok(),
            Known::Part => true,
        };
        if !on_primary && let Some(conn) = self.replica(consistency, avoided).await {
            return Ok(conn);
        }
        if consistency == Consistency::Strong || known == Known::Part {
            let (index, object) = self.router.core.primary(self.need().timeline).await?;
            return Ok(self.lend(index, object, None));
        }
        self.fall_back(consistency).await
    }

    /// What a replica must have replayed for this client.
    fn need(&self) -> Position {
        self.causal
            .token()
            .map(|token| token.need())
            .unwrap_or_default()
    }

    /// A connection to the primary, each statement a transaction of its own. Waits up to `write_wait` for a primary.
    ///
    /// # Errors
    /// As [`Router::write`], and [`Error::Lost`] as [`Db::read_with`].
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn write(&self) -> Result<Conn, Error> {
        if let Some(unit) = self.causal.unit() {
            return unit.lock().await.map(Conn::of_unit);
        }
        let token = self.admit().await?;
        let needed = token.map_or(0, |token| token.need().timeline);
        let (index, object) = self.router.core.primary(needed).await?;
        Ok(Conn::pooled(Lease::new(
            &self.router,
            index,
            object,
            Some(self.causal.clone()),
            true,
        )))
    }

    /// A transaction on the primary; inside a unit of work, a savepoint of its transaction.
    ///
    /// # Errors
    /// As [`Router::transaction`], and [`Error::Lost`] as [`Db::read_with`].
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn transaction(&self) -> Result<Transaction, Error> {
        self.transaction_with(TransactionOptions::default()).await
    }

    /// As [`Db::transaction`], with options. Inside a unit of work they have no effect: the unit has begun already.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    ///
    /// # Cancel safety
    /// As [`Router::read`].
    pub async fn transaction_with(
        &self,
        options: TransactionOptions,
    ) -> Result<Transaction, Error> {
        if let Some(unit) = self.causal.unit() {
            return Transaction::nested(unit.lock().await?).await;
        }
        self.admit().await?;
        Transaction::begin(&self.router, Some(&self.causal), &options).await
    }

    /// Checks the client's token against what is known. One that says nothing about this cluster is replaced, a lost write is
    /// reported once.
    pub(crate) async fn admit(&self) -> Result<Option<Token>, Error> {
        let Some(token) = self.causal.token() else {
            return Ok(None);
        };
        let view = self.router.core.view.load_full();
        if token.need().timeline > view.timeline {
            // Somebody has seen a promotion that we have not.
            self.router.core.kick();
        }
        let here = || {
            let tip = Position {
                timeline: view.timeline,
                lsn: view.tip,
            };
            Token::at(view.system_id.unwrap_or(0), Position::default(), tip)
        };
        match self.router.core.check(&view, &token) {
            Ok(()) => Ok(Some(token)),
            Err(error @ (Error::ForeignToken { .. } | Error::ImplausibleToken { .. })) => {
                tracing::warn!(%error, "token ignored");
                self.causal.replace(here());
                Ok(None)
            }
            Err(error) => {
                self.causal.replace(here());
                Err(error)
            }
        }
    }

    /// A replica that is fresh enough, or becomes so within `replica_wait`.
    async fn replica(&self, consistency: Consistency, avoided: &[usize]) -> Option<Conn> {
        let core = &self.router.core;
        let view = core.view.load_full();
        let own = consistency == Consistency::ReadYourWrites;
        let mut candidates: Vec<usize> = (0..view.nodes.len())
            .filter(|index| {
                let node = &view.nodes[*index];
                let fresh = match consistency {
                    Consistency::Bounded(bound) => node
                        .fresh_at
                        .is_some_and(|at| Instant::now().saturating_duration_since(at) <= bound),
                    // Without a primary nobody can tell the lag, and a proof is a proof.
                    _ => !node.ejected || view.primary.is_err(),
                };
                node.role == Role::Replica && fresh && !avoided.contains(index)
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let turn = core.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
        candidates.rotate_left(turn);
        let sticky = self.causal.last_read();
        let sticky = candidates.iter().position(|index| {
            let generation = view.nodes[*index].generation;
            let node = *index;
            sticky == Some(Served { node, generation })
        });
        if let Some(at) = sticky {
            // It needs no proof of what it has shown itself.
            candidates[..=at].rotate_right(1);
        }
        for index in &candidates {
            let here = Served {
                node: *index,
                generation: view.nodes[*index].generation,
            };
            // What one node shows does not go back, so what it alone has shown need not be known yet.
            if own && self.causal.has_reads_elsewhere(here) {
                self.causal.settle().await;
            }
            let need = if own {
                self.need()
            } else {
                Position::default()
            };
            if self.proven(&view, *index, need) {
                match core.checkout(*index, Duration::ZERO).await {
                    Ok(object) => return Some(self.lend_replica(&view, *index, object)),
                    Err(error) => tracing::debug!(%error, "replica passed over"),
                }
            }
        }
        let need = if own {
            self.need()
        } else {
            Position::default()
        };
        // With a primary to go to, waiting for more than one only takes time.
        let tries = if view.primary.is_ok() { 1 } else { usize::MAX };
        for index in candidates.into_iter().take(tries) {
            if let Some(conn) = self.await_replica(&view, index, need).await {
                return Some(conn);
            }
        }
        None
    }

    fn proven(&self, view: &View, index: usize, need: Position) -> bool {
        view.nodes[index]
            .replayed()
            .is_some_and(|at| covers(need, at, view.history.as_deref()) == Cover::Yes)
    }

    fn lend(&self, index: usize, object: Object, permit: Option<OwnedSemaphorePermit>) -> Conn {
        let causal = Some(self.causal.clone());
        let lease = Lease::new(&self.router, index, object, causal, false);
        Conn::pooled(lease.with_permit(permit))
    }

    fn lend_replica(&self, view: &View, index: usize, object: Object) -> Conn {
        let generation = view.nodes[index].generation;
        self.causal.set_last_read(Served {
            node: index,
            generation,
        });
        self.lend(index, object, None)
    }

    /// Waits for one replica to catch up: a statement of its own, before the read takes its snapshot.
    async fn await_replica(&self, view: &View, index: usize, need: Position) -> Option<Conn> {
        let core = &self.router.core;
        let wait = core.settings.replica_wait;
        let waiting = async {
            let object = core.checkout(index, wait).await.ok()?;
            loop {
                let answer = object.client.simple_query(STAND).await.ok()?;
                let stand = Stand::read(&answer, view.nodes[index].timeline)?;
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
        Some(self.lend_replica(view, index, object))
    }

    /// No replica will do: the primary, or whichever of the nodes comes to be able to serve this until `write_wait` has passed.
    async fn fall_back(&self, consistency: Consistency) -> Result<Conn, Error> {
        let core = &self.router.core;
        let end = tokio::time::Instant::now() + core.settings.write_wait;
        let mut changes = core.subscribe();
        let mut last = Error::NoReplica;
        loop {
            changes.mark_unchanged();
            let view = core.view.load_full();
            match view.primary {
                Ok(index) if view.timeline >= self.need().timeline => {
                    let permit = Arc::clone(&core.fallback).acquire_owned();
                    let Ok(Ok(permit)) = timeout(core.settings.pool_wait, permit).await else {
                        let conn = self.replica(consistency, &[]).await;
                        return conn.ok_or(Error::NoReplica);
                    };
                    let left = end.saturating_duration_since(tokio::time::Instant::now());
                    let wait = core.settings.pool_wait.min(left);
                    match timeout(left, core.checkout(index, wait)).await {
                        Ok(Ok(object)) => return Ok(self.lend(index, object, Some(permit))),
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
