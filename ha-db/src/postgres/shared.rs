//! What the router's clones, its probes and its leases share: the knowledge, and the way to a connection.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use ha_core::budget::Budget;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Error;
use super::changes::differences;
use super::config::Settings;
use super::conn::Place;
use super::event::{Desk, Event, Listeners};
use super::history::History;
use super::members::{Graves, Member};
use super::pool::Node;
use super::problem::Problem;
use super::token::Token;
use super::topology::{Rules, Sighting, Topology};
use super::view::{NodeView, Verdict, View};
use crate::routing::read::Busy;

/// What is known at one moment, and the nodes of which it is known, by the same numbers.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) view: View,
    pub(crate) members: Vec<Option<Arc<Member>>>,
    /// What is wrong with each, in the same order.
    pub(crate) problems: Vec<Option<Problem>>,
}

impl Deref for Snapshot {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Snapshot {
    /// The nodes that have not been removed.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeView)> {
        let members = self.members.iter().zip(&self.view.nodes);
        members.filter_map(|(member, seen)| Some((&member.as_ref()?.node, seen)))
    }

    /// Whether a node has refused to show the history of the newest timeline.
    fn cannot_read_history(&self) -> bool {
        let refused = |problem: &Problem| matches!(problem, Problem::NoHistory { timeline } if *timeline == self.timeline);
        self.problems.iter().flatten().any(refused)
    }

    pub(crate) fn node(&self, index: usize) -> Option<&Arc<Node>> {
        self.members[index].as_ref().map(|member| &member.node)
    }

    /// What somebody waits for who waits for a primary, or to be told what it has kept.
    fn turn(&self) -> impl PartialEq + use<> {
        (
            (self.primary, self.epoch, self.timeline, self.system_id),
            (self.history.is_some(), self.cannot_read_history()),
        )
    }

    pub(crate) fn busy(&self, index: usize) -> Busy {
        self.node(index).map(|node| node.busy()).unwrap_or_default()
    }

    pub(crate) fn place(&self, index: usize) -> Place {
        Place {
            index,
            system_id: self.system_id.unwrap_or(0),
            timeline: self.nodes[index].timeline.unwrap_or(0),
        }
    }

    pub(super) fn name(&self, index: usize) -> Arc<str> {
        self.node(index)
            .map_or_else(|| "?".into(), |node| Arc::clone(&node.name))
    }
}

/// What a probe has found out.
#[derive(Debug)]
pub(crate) enum Report {
    /// What a question sent at this moment was answered.
    Saw(Sighting, Instant, Option<Problem>),
    Failed(Option<Problem>),
    History(History),
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) view: Arc<ArcSwap<Snapshot>>,
    pub(crate) runtime: Handle,
    pub(crate) fallback: Arc<Semaphore>,
    pub(crate) turn: AtomicUsize,
    pub(crate) budget: Budget,
    pub(super) state: Mutex<State>,
    desk: Desk,
    changed: watch::Sender<u64>,
    /// As `changed`, for those who are not concerned with how far a replica is.
    turned: watch::Sender<u64>,
    /// Requests that wait for a primary.
    pub(super) waiting: AtomicUsize,
    /// The timelines of the last [`Event::Unprovable`], so that only news takes a lock.
    unprovable: AtomicU64,
}

/// What only changes of knowledge touch.
#[derive(Debug)]
pub(super) struct State {
    pub(super) topology: Topology,
    pub(super) members: Vec<Option<Arc<Member>>>,
    /// What each node itself said about the set-up.
    pub(super) told: Vec<Option<Problem>>,
    pub(super) graves: Graves,
    unprovable: BTreeSet<(u32, u32)>,
}

impl Core {
    pub(crate) fn new(settings: Settings, listeners: Listeners, runtime: Handle) -> Self {
        let topology = Topology::new(Rules {
            max_lag: settings.max_lag,
            readmit_after: settings.readmit_after,
            cut_after: settings.cut_after,
            system_id: settings.system_id,
        });
        let view = Snapshot {
            view: topology.view(Instant::now()),
            members: Vec::new(),
            problems: Vec::new(),
        };
        Self {
            fallback: Arc::new(Semaphore::new(
                settings
                    .fallback_reads
                    .unwrap_or(settings.pool_size.div_ceil(2)),
            )),
            budget: Budget::new(settings.retry_budget, Instant::now())
                .unwrap_or_else(|_| unreachable!("the builder has checked it")),
            settings,
            view: Arc::new(ArcSwap::from_pointee(view)),
            runtime,
            turn: AtomicUsize::new(0),
            state: Mutex::new(State {
                topology,
                members: Vec::new(),
                told: Vec::new(),
                graves: Graves::default(),
                unprovable: BTreeSet::new(),
            }),
            desk: Desk::new(listeners),
            changed: watch::Sender::new(0),
            turned: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            unprovable: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what a probe found out about `node`, unless that was removed meanwhile.
    pub(crate) fn learn(&self, node: &Arc<Node>, report: Report) {
        let mut state = self.state();
        let here = state.members[node.index].as_ref();
        if !here.is_some_and(|member| Arc::ptr_eq(&member.node, node)) {
            return;
        }
        // A new attempt may go better.
        node.refusing.store(false, Ordering::Relaxed);
        let now = Instant::now();
        match report {
            Report::Saw(sighting, asked, told) => {
                state.told[node.index] = told;
                state.topology.saw(node.index, sighting, asked, now);
            }
            Report::Failed(told) => {
                state.told[node.index] = told;
                state.topology.failed(node.index, now);
            }
            Report::History(history) => state.topology.learn(history, now),
        }
        self.publish(state, []);
    }

    /// Draws the conclusions from a change, and tells everybody.
    pub(super) fn publish(
        &self,
        state: MutexGuard<'_, State>,
        events: impl IntoIterator<Item = Event>,
    ) {
        let view = state.topology.view(Instant::now());
        let old = self.view.load_full();
        let mut new = Snapshot {
            view,
            members: state.members.clone(),
            problems: Vec::new(),
        };
        new.problems = (0..new.members.len())
            .map(|index| {
                let told = state.told[index].as_ref();
                let name = |index| new.name(index).to_string();
                Problem::of_node(&new, index, told, name)
            })
            .collect();
        for (member, seen) in new.members.iter().zip(&new.view.nodes) {
            let Some(member) = member else { continue };
            let generation = &member.node.generation;
            if generation.swap(seen.generation, Ordering::AcqRel) != seen.generation {
                for pool in member.pools() {
                    drop(pool.retain(|session, _| session.generation >= seen.generation));
                }
            }
            member.hand_over(new.view.primary == Ok(member.node.index));
            member.node.cut.send_if_modified(|cut| {
                let more = seen.cut > *cut;
                *cut = seen.cut.max(*cut);
                more
            });
        }
        self.desk.put(events);
        self.desk.put(differences(&old, &new));
        #[cfg(feature = "metrics")]
        super::metrics::gauges(&new);
        let turned = old.turn() != new.turn();
        let lost = old.primary.is_ok() && new.primary.is_err();
        let new = Arc::new(new);
        self.view.store(Arc::clone(&new));
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        if turned {
            self.turned.send_modify(|version| *version += 1);
        }
        for (node, _) in new.present() {
            node.asking.moved();
            if lost {
                // One of the others is, or soon will be, what this one was.
                node.kick.notify_one();
            }
        }
        self.desk.tell();
    }

    pub(crate) fn wanted_history(&self) -> Option<u32> {
        self.state().topology.wanted_history()
    }

    /// Changes with every report.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes with the primary, the newest timeline, and what is known of its history.
    pub(crate) fn turns(&self) -> watch::Receiver<u64> {
        self.turned.subscribe()
    }

    /// Wakes every probe.
    pub(crate) fn kick(&self) {
        for (node, _) in self.view.load().present() {
            node.kick.notify_one();
        }
    }

    /// What of `token` still stands, as an error when it does not.
    pub(crate) fn check(&self, view: &Snapshot, token: &Token) -> Result<(), Error> {
        let written = token.written();
        match view.judge(token.system_id(), written, token.seen(), token.known()) {
            Verdict::Stands => Ok(()),
            Verdict::Unprovable => {
                self.tell_unprovable(view, written.timeline);
                Ok(())
            }
            Verdict::Foreign { ours } => Err(Error::ForeignToken {
                token: token.system_id(),
                ours,
            }),
            Verdict::Implausible(position) => Err(Error::ImplausibleToken { position }),
            Verdict::Lost(switch) => Err(Error::Lost { written, switch }),
        }
    }

    fn tell_unprovable(&self, view: &Snapshot, written: u32) {
        #[cfg(feature = "metrics")]
        metrics::counter!("ha_db_unprovable_tokens_total").increment(1);
        // The history of a new timeline is read a moment after the timeline is seen: that is no news.
        if !view.cannot_read_history() {
            return;
        }
        let timeline = view.timeline;
        let both = u64::from(written) << 32 | u64::from(timeline);
        if self.unprovable.swap(both, Ordering::Relaxed) == both {
            return;
        }
        if self.state().unprovable.insert((written, timeline)) {
            self.desk.put([Event::Unprovable { written, timeline }]);
            self.desk.tell();
        }
    }

    /// Whether it can be told by now what became of `token`'s write, or nobody will tell.
    pub(crate) fn is_told(&self, view: &Snapshot, token: &Token) -> bool {
        let verdict = view.judge(
            token.system_id(),
            token.written(),
            token.seen(),
            token.known(),
        );
        verdict != Verdict::Unprovable || view.cannot_read_history()
    }

    /// Waits until it can be told what became of `token`'s write, if the history that tells is about to be read.
    pub(crate) async fn await_history(&self, token: &Token) {
        let told = || self.is_told(&self.view.load(), token);
        if told() {
            return;
        }
        let mut turns = self.turns();
        let told = turns.wait_for(|_| told());
        // After that, nobody who could read it answers.
        let _ = timeout(self.settings.probe_timeout, told).await;
    }
}
