//! A router as one client sees it.

use std::sync::Arc;

use super::conn::Lease;
use super::lsn::Position;
use super::shared::Core;
use super::{Causal, Conn, Error, Router, Token, Transaction, TransactionOptions};

/// A router as one client sees it: reads show what the client has written. Clones share the client's context.
#[derive(Debug, Clone)]
pub struct Db {
    pub(super) router: Router,
    pub(super) causal: Causal,
}

/// A token that holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Admitted {
    /// None when there is nothing to keep.
    pub(crate) token: Option<Token>,
    /// The newest one known when it was judged. A newer one may not have kept what the token stands for.
    pub(crate) timeline: u32,
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
        let lease = lend_primary(&self.router.core, Some(&self.causal), false, true).await?;
        Ok(Conn::pooled(lease))
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
        Transaction::begin(&self.router, Some(&self.causal), &options).await
    }
}

/// The primary, once it is known to keep what this client wrote.
///
/// The wait for it may end with a promotion that has cut off the client's last write. A token that was judged before the wait says
/// nothing of that, and the next write would take the place of the lost one in it.
pub(crate) async fn lend_primary(
    core: &Arc<Core>,
    causal: Option<&Causal>,
    reserved: bool,
    write: bool,
) -> Result<Lease, Error> {
    loop {
        let Admitted { token, timeline } = match causal {
            Some(causal) => core.admit(causal).await?,
            None => Admitted::default(),
        };
        let needed = token.map_or(0, |token| token.need().timeline);
        let judged = token.map(|_| timeline);
        if let Some(chosen) = core.primary(reserved, needed, judged).await? {
            return Ok(chosen.lend(core, causal, write));
        }
    }
}

impl Core {
    /// Checks the client's token against what is known. One that says nothing about this cluster is replaced, a lost write is
    /// reported once.
    pub(crate) async fn admit(&self, causal: &Causal) -> Result<Admitted, Error> {
        let Some(token) = causal.token() else {
            return Ok(Admitted::default());
        };
        // Not before it can be told whether a write of an earlier timeline has survived: a write of a newer one would take its place
        // in the token, and its loss would never be reported.
        self.await_history(&token).await;
        let view = self.view.load();
        if token.need().timeline > view.timeline {
            // Somebody has seen a promotion that we have not.
            self.kick();
        }
        let here = |written| {
            let tip = Position {
                timeline: view.timeline,
                lsn: view.tip,
            };
            Token::at(view.system_id.unwrap_or(0), written, tip)
        };
        match self.check(&view, &token) {
            Ok(()) => Ok(Admitted {
                token: Some(token),
                timeline: view.timeline,
            }),
            Err(error @ (Error::ForeignToken { .. } | Error::ImplausibleToken { .. })) => {
                tracing::warn!(%error, "token ignored");
                causal.replace(here(Position::default()));
                Ok(Admitted::default())
            }
            Err(error) => {
                // What it wrote before may be lost in its turn.
                let written = match error {
                    Error::Lost { switch, .. } => switch,
                    _ => Position::default(),
                };
                causal.replace(here(written));
                Err(error)
            }
        }
    }
}
