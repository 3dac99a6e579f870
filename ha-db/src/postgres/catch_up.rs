//! Waiting until a replica has replayed what a client needs, one question for all who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;

use super::lsn::Position;
use super::members::Member;
use super::pool::{Node, Object};
use super::role::Role;
use super::shared::Core;
use super::stand::{STAND, Stand};
use super::view::NodeView;
use crate::routing::history::{Cover, covers};

/// Between two questions to a replica that is catching up.
const POLL: Duration = Duration::from_micros(500);

/// Who asks a node how far it is, while others wait for the answer.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    busy: AtomicBool,
    moved: Notify,
}

/// The right to ask. Whoever gives it up, or is dropped with it, lets another one ask.
#[derive(Debug)]
struct Turn<'a>(&'a Asking);

impl Asking {
    fn turn(&self) -> Option<Turn<'_>> {
        let free = self
            .busy
            .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed);
        free.is_ok().then_some(Turn(self))
    }

    /// Whoever waits should look again.
    pub(crate) fn moved(&self) {
        self.moved.notify_waiters();
    }

    fn looking(&self) -> Notified<'_> {
        self.moved.notified()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
        self.0.moved();
    }
}

impl Node {
    /// Remembers how far it has said that it is, if that was said in the life and on the timeline of which `seen` speaks.
    pub(crate) fn prove(&self, seen: &NodeView, generation: u64, at: Position) {
        if generation == seen.generation
            && seen.timeline == Some(at.timeline)
            && seen.proof.fetch_max(at.lsn.0, Ordering::AcqRel) < at.lsn.0
        {
            self.asking.moved();
        }
    }
}

/// What the knowledge of now says about waiting for a replica.
enum Look {
    Proven,
    NotYet,
    InVain,
}

impl Core {
    fn look(&self, member: &Member, generation: u64, need: Position) -> Look {
        let view = self.view.load();
        let index = member.node.index;
        let node = &view.nodes[index];
        if node.generation != generation || node.role != Role::Replica {
            return Look::InVain;
        }
        let history = view.history.as_deref();
        match node.replayed().map(|at| covers(need, at, history)) {
            Some(Cover::Yes) => Look::Proven,
            Some(Cover::NotYet) | None => Look::NotYet,
            Some(Cover::Lost(_) | Cover::Unprovable) => Look::InVain,
        }
    }

    /// Waits at most `replica_wait` for one replica to catch up: whoever's question it was, it was answered before the read takes its
    /// snapshot. Of all who wait one asks; the others hold no connection meanwhile.
    pub(crate) async fn await_replica(
        &self,
        member: &Arc<Member>,
        generation: u64,
        need: Position,
    ) -> Option<Object> {
        let wait = self.settings.replica_wait;
        let (node, pool) = (&member.node, &member.replica_pool);
        let waiting = async {
            let (mut turn, mut own) = (None, None);
            loop {
                let looking = node.asking.looking();
                tokio::pin!(looking);
                // Registered before the look, or an answer between the two would be missed.
                looking.as_mut().enable();
                match self.look(member, generation, need) {
                    Look::Proven => break,
                    Look::InVain => return None,
                    Look::NotYet => {}
                }
                if turn.is_none() {
                    turn = node.asking.turn();
                    if turn.is_none() {
                        looking.await;
                        continue;
                    }
                }
                let object = match own.take() {
                    Some(object) => object,
                    None => member.checkout(pool, generation, wait).await.ok()?,
                };
                let answer = object.client.simple_query(STAND).await.ok()?;
                let view = self.view.load_full();
                let seen = &view.nodes[node.index];
                let stand = Stand::read_on(&answer, seen)?;
                node.prove(seen, object.generation, stand.position);
                match covers(need, stand.position, view.history.as_deref()) {
                    Cover::Yes if seen.generation == generation => return Some(object),
                    Cover::Yes | Cover::NotYet => {
                        own = Some(object);
                        tokio::time::sleep(POLL).await;
                    }
                    Cover::Lost(_) | Cover::Unprovable => return None,
                }
            }
            match own {
                Some(object) => Some(object),
                None => member.checkout(pool, generation, wait).await.ok(),
            }
        };
        timeout(wait, waiting).await.ok().flatten()
    }
}
