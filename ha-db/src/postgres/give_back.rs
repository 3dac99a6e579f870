//! What happens to a connection that is given back: it is asked where it stands, which becomes part of its client's token, and is lent
//! again if it is clean.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::causal::Unsettled;
use super::lsn::Position;
use super::pool::{Object, Session, field, first_row};
use super::probe::CEILING;
use super::shared::Core;
use super::stand::{STAND, Stand};
use super::token::Known;

/// How long a connection that was given back may take to say where it stands, before the primary is asked in its place. Half
/// of what [`Causal::settle`](super::Causal::settle) waits.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_millis(250);

/// How long it may take to become usable again. After it, it is closed.
const REUSE_LIMIT: Duration = Duration::from_secs(2);

/// What its last user has left running on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Reads, or a transaction that is to be rolled back: what still runs may be cancelled.
    Nothing,
    /// Statements that commit by themselves.
    Autocommit,
    /// A COMMIT. It is not cancelled: one that waits for its standby would become visible without it.
    Commit,
}

/// A connection that was given back.
pub(super) struct Returned {
    pub(super) object: Object,
    pub(super) core: Arc<Core>,
    pub(super) index: usize,
    pub(super) left: Left,
    /// Lent for writing, in whatever way.
    pub(super) write: bool,
    /// Inside a transaction of ours, which is rolled back.
    pub(super) begun: bool,
    pub(super) tainted: bool,
    pub(super) unsettled: Option<Unsettled>,
    /// Given up when the connection is usable again.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

type Answer = Vec<SimpleQueryMessage>;

impl Returned {
    pub(super) async fn settle(mut self) {
        let _permit = self.permit.take();
        // Whoever forgot a BEGIN, or was cancelled within a query, must not hand that on to the next.
        let answer = match timeout(SETTLE_LIMIT, self.ask()).await {
            Ok(Some(answer)) => Some(answer),
            // Boxed, so that what is rare is no part of every return's task.
            early => self.settle_late(early.is_err()).await,
        };
        let stand = match answer {
            None => None,
            Some(answer) => self.read(&answer).await,
        };
        if let Some(stand) = stand {
            if self.write && !stand.of_primary() {
                // Demoted under its sessions: whatever was tried there has met a read-only server.
                self.core.kick();
            }
            {
                let view = self.core.view.load();
                let generation = self.object.generation;
                let node = &view.nodes[self.index];
                self.object.node.prove(node, generation, stand.position);
            }
            if let Some(unsettled) = self.unsettled.take() {
                let written = match self.left {
                    Left::Autocommit => stand.written(None),
                    Left::Nothing | Left::Commit => Position::default(),
                };
                unsettled.at(written, stand.visible(), stand.of_primary());
            }
        }
        let clean = stand.is_some_and(|stand| !stand.in_transaction);
        give_back(self.object, clean && !self.tainted);
    }

    async fn ask(&self) -> Option<Answer> {
        if self.begun {
            self.object.client.batch_execute("ROLLBACK").await.ok()?;
        }
        self.object.client.simple_query(STAND).await.ok()
    }

    /// It did not say where it stands: something of its last user still runs, and nobody waits for it, or the connection is gone.
    fn settle_late(
        &mut self,
        runs: bool,
    ) -> Pin<Box<dyn Future<Output = Option<Answer>> + Send + '_>> {
        Box::pin(async move {
            if !runs {
                self.ask_primary().await;
                return None;
            }
            self.tainted = true;
            let (object, left) = (&self.object, self.left);
            if left != Left::Commit {
                object.node.cancel(object, left == Left::Autocommit).await;
            }
            if self.unsettled.as_ref().is_some_and(Unsettled::is_read) {
                self.ask_primary().await;
            }
            let answer = timeout(REUSE_LIMIT, self.ask()).await.ok().flatten();
            if answer.is_none() {
                self.ask_primary().await;
            }
            answer
        })
    }

    /// The primary has at least what any replica has shown, and what it has acknowledged itself.
    async fn ask_primary(&mut self) {
        let Some(unsettled) = &self.unsettled else {
            return;
        };
        let read = unsettled.is_read();
        let asking = self.core.ask_primary(read.then_some(self.index));
        let Ok(Some(stand)) = timeout(SETTLE_LIMIT, asking).await else {
            return;
        };
        if read {
            if let Some(unsettled) = self.unsettled.take() {
                unsettled.at(Position::default(), stand.visible(), stand.of_primary());
            }
        } else if unsettled.is_of(stand.position.timeline)
            && let Some(unsettled) = self.unsettled.take()
        {
            // What was acknowledged lies before it. What still runs may come after it, and was promised to nobody.
            unsettled.past(stand.written(None), Known::Acknowledged);
        }
    }

    async fn read(&self, answer: &[SimpleQueryMessage]) -> Option<Stand> {
        let stand = {
            let view = self.core.view.load();
            Stand::read_on(answer, &view.nodes[self.index])
        };
        if stand.is_some() {
            return stand;
        }
        // What it has on its disk is of no later timeline.
        let asking = self.object.client.simple_query(CEILING);
        let ceiling = timeout(SETTLE_LIMIT, asking).await.ok()?.ok()?;
        let ceiling = first_row(&ceiling).and_then(|row| field(row, 0));
        Stand::read(answer, ceiling)
    }
}

/// Lends it again, or closes it.
pub(super) fn give_back(object: Object, clean: bool) {
    if clean {
        drop(object);
    } else {
        drop(Object::take(object) as Session);
    }
}
