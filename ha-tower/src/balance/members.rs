use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use ha_core::endpoint::Endpoint;

use super::changes::Changes;
use super::fleet::{Ask, Fleet, Group};
use super::pick::{Choice, Slot};
use super::service::Control;
use super::{Event, State};
use crate::clock::Moment;

// As many changes in a row may come between a look and the pick by it. Nothing to pick is an answer, so there is an end.
const LOOKS: u32 = 4;

#[derive(Debug, Clone)]
pub(super) struct Member<S> {
    pub(super) endpoint: Endpoint,
    pub(super) state: Arc<State>,
    pub(super) service: S,
}

/// One set of endpoints with their services, replaced as a whole.
#[derive(Debug)]
pub(super) struct Members<S> {
    pub(super) list: Vec<Member<S>>,
    pub(super) fleet: Fleet,
}

/// What all clones of a balancer share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) members: ArcSwap<Members<S>>,
    pub(super) changes: Arc<Changes>,
    pub(super) control: Control,
    panic: AtomicBool,
}

impl<S> Shared<S> {
    pub(super) fn new(members: Members<S>, control: Control, changes: Arc<Changes>) -> Self {
        Self {
            members: ArcSwap::from_pointee(members),
            changes,
            control,
            panic: AtomicBool::new(false),
        }
    }

    pub(super) fn is_panicking(&self) -> bool {
        self.look(&Moment::default());
        self.members.load().fleet.is_panicking()
    }

    #[inline]
    fn look(&self, now: &Moment) {
        self.changes
            .look(now, |at| self.refresh(at), || self.tell_panic());
    }

    /// Not the set that the caller goes by: the mark that brought it here may be of a newer one, and nobody marks that again.
    #[cold]
    fn refresh(&self, at: Instant) -> Option<Instant> {
        self.members.load().fleet.refresh(at)
    }

    #[cold]
    fn tell_panic(&self) {
        let active = self.members.load().fleet.is_panicking();
        if self.panic.swap(active, Ordering::Relaxed) != active {
            self.changes.tell(|| Event::Panic { active });
        }
    }

    /// There was nobody by what was known, and another thread may be looking just now at what has changed.
    #[cold]
    fn pick_surely<'a>(
        &self,
        members: &'a Members<S>,
        ask: &Ask<'_>,
        slot: &mut Slot,
    ) -> Option<(&'a Group, Choice)> {
        for _ in 0..LOOKS {
            let now = Moment::default();
            self.changes.look_surely(now.get(), |at| self.refresh(at));
            self.tell_panic();
            let picked = members.fleet.pick(ask, &now, slot);
            if picked.is_some() || !self.changes.is_dirty() {
                return picked;
            }
        }
        None
    }

    /// Picks by the rules of the [module](super). What was picked is in no flight yet.
    #[inline]
    pub(super) fn pick<'a>(
        &self,
        members: &'a Members<S>,
        ask: &Ask<'_>,
        now: &Moment,
        slot: &mut Slot,
    ) -> Option<(&'a Group, Choice)> {
        self.look(now);
        let picked = members.fleet.pick(ask, now, slot);
        picked.or_else(|| self.pick_surely(members, ask, slot))
    }

    /// When a flight that begins now began, if anybody wants to know.
    #[inline]
    pub(super) fn started(&self, state: &State, now: &Moment) -> Option<Instant> {
        if self.control.counts_picks {
            state.picked();
        }
        self.control.measures.then(|| now.get())
    }
}

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        if let Some(ejector) = self.changes.ejector() {
            ejector.end();
        }
    }
}
