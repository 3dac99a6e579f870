//! What the router's clones, its probes and its leases share: the knowledge, and the way to a connection.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use deadpool::managed::{PoolError, Timeouts};
use ha_core::budget::Budget;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Error;
use super::config::Settings;
use super::conn::{STAND, Stand};
use super::error::ConnectError;
use super::event::{Desk, Event, Listeners};
use super::history::History;
use super::members::{Graves, Member};
use super::pool::{Node, Object};
use super::problem::Problem;
use super::role::NoPrimary;
use super::token::Token;
use super::topology::{Rules, Sighting, Topology};
use super::view::{NodeView, Verdict, View};

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

    fn name(&self, index: usize) -> Arc<str> {
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
        self.view.store(Arc::new(new));
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        self.desk.tell();
    }

    pub(crate) fn wanted_history(&self) -> Option<u32> {
        self.state().topology.wanted_history()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes every probe.
    pub(crate) fn kick(&self) {
        for (node, _) in self.view.load().present() {
            node.kick.notify_one();
        }
    }

    /// A connection of one node of `view`, waiting at most `wait` for a free one.
    pub(crate) async fn checkout(
        &self,
        view: &Snapshot,
        index: usize,
        wait: Duration,
    ) -> Result<Object, Error> {
        self.checkout_of(view, index, wait, false).await
    }

    async fn checkout_of(
        &self,
        view: &Snapshot,
        index: usize,
        wait: Duration,
        reserved: bool,
    ) -> Result<Object, Error> {
        let Some(member) = &view.members[index] else {
            return Err(Error::NotSent {
                node: String::new(),
                source: ConnectError::Closed,
            });
        };
        let pool = match view.primary {
            _ if reserved => &member.reserved,
            Ok(primary) if primary == index => &member.pool,
            _ => &member.replica_pool,
        };
        let node = || member.node.name.to_string();
        let free = Timeouts {
            wait: Some(Duration::ZERO),
            create: None,
            recycle: None,
        };
        let got = match pool.timeout_get(&free).await {
            Err(PoolError::Timeout(_)) if !wait.is_zero() => {
                match timeout(wait, pool.timeout_get(&Timeouts::default())).await {
                    Ok(got) => got,
                    Err(_) => return Err(Error::Pool { node: node() }),
                }
            }
            got => got,
        };
        got.map_err(|error| match error {
            PoolError::Timeout(_) => Error::Pool { node: node() },
            PoolError::Backend(source) => {
                member.node.kick.notify_one();
                Error::NotSent {
                    node: node(),
                    source,
                }
            }
            _ => Error::NotSent {
                node: node(),
                source: ConnectError::Closed,
            },
        })
    }

    /// What of `token` still stands, as an error when it does not.
    pub(crate) fn check(&self, view: &Snapshot, token: &Token) -> Result<(), Error> {
        let written = token.written();
        match view.judge(token.system_id(), written, token.seen()) {
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
        if self.state().unprovable.insert((written, timeline)) {
            self.desk.put([Event::Unprovable { written, timeline }]);
            self.desk.tell();
        }
    }

    /// Waits until it can be told what became of `token`'s write, if the history that tells is about to be read.
    pub(crate) async fn await_history(&self, token: &Token) {
        let told = || {
            let view = self.view.load();
            let verdict = view.judge(token.system_id(), token.written(), token.seen());
            verdict != Verdict::Unprovable || view.cannot_read_history()
        };
        if told() {
            return;
        }
        let mut changes = self.subscribe();
        let told = changes.wait_for(|_| told());
        // After that, nobody who could read it answers.
        let _ = timeout(self.settings.probe_timeout, told).await;
    }

    /// Where the primary stands, unless `instead_of` is the primary.
    pub(crate) async fn ask_primary(&self, instead_of: usize) -> Option<Stand> {
        let view = self.view.load_full();
        let primary = view.primary.ok().filter(|index| *index != instead_of)?;
        let object = self.checkout(&view, primary, Duration::ZERO).await.ok()?;
        let answer = object.client.simple_query(STAND).await.ok()?;
        Stand::read(&answer, None)
    }

    /// A connection to the primary, a reserved one if `reserved`, and the timeline that it is the primary of. Waits until `write_wait`
    /// has passed.
    pub(crate) async fn primary(
        &self,
        reserved: bool,
        needed_timeline: u32,
    ) -> Result<(usize, Object, u32), Error> {
        let limit = self.settings.write_wait;
        let end = tokio::time::Instant::now() + limit;
        let mut changes = self.subscribe();
        let mut last: Option<Error> = None;
        loop {
            changes.mark_unchanged();
            let view = self.view.load_full();
            let reason = match view.primary {
                Ok(index) if view.timeline >= needed_timeline => {
                    let left = end.saturating_duration_since(tokio::time::Instant::now());
                    let wait = self.settings.pool_wait.min(left);
                    match timeout(left, self.checkout_of(&view, index, wait, reserved)).await {
                        Ok(Ok(object)) => return Ok((index, object, view.timeline)),
                        Ok(Err(full @ Error::Pool { .. })) => return Err(full),
                        Ok(Err(error)) => last = Some(error),
                        Err(_) => {}
                    }
                    NoPrimary::NotFound
                }
                Ok(_) => NoPrimary::StaleForToken,
                Err(reason) => reason,
            };
            self.kick();
            if tokio::time::timeout_at(end, changes.changed())
                .await
                .is_err()
            {
                return Err(last.unwrap_or(Error::NoPrimary {
                    waited: limit,
                    reason,
                }));
            }
        }
    }
}

/// What somebody who watches has to be told.
fn differences(old: &Snapshot, new: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    for (index, (member, seen)) in new.members.iter().zip(&new.view.nodes).enumerate() {
        let Some(member) = member else { continue };
        let node = || Arc::clone(&member.node.name);
        let before = old.members.get(index).and_then(Option::as_ref);
        let before = before
            .filter(|before| Arc::ptr_eq(before, member))
            .map(|_| &old.view.nodes[index]);
        let from = before.map_or(super::role::Role::Unreachable, |before| before.role);
        if from != seen.role {
            events.push(Event::RoleChanged {
                node: node(),
                from,
                to: seen.role,
            });
        }
        let was_ejected = before.is_some_and(|before| before.ejected);
        if seen.ejected && !was_ejected {
            let lag = seen.lag;
            events.push(Event::Ejected { node: node(), lag });
        } else if was_ejected && !seen.ejected {
            events.push(Event::Readmitted { node: node() });
        }
        let had = before.and(old.problems[index..].first()).cloned().flatten();
        match &new.problems[index] {
            // A position that moves on is no other problem.
            Some(problem)
                if had.as_ref().map(std::mem::discriminant)
                    != Some(std::mem::discriminant(problem)) =>
            {
                let problem = problem.clone();
                events.push(Event::ProblemFound {
                    node: node(),
                    problem,
                });
            }
            None if had.is_some() => events.push(Event::ProblemSolved { node: node() }),
            _ => {}
        }
    }
    match new.primary {
        Ok(index) if old.epoch != new.epoch || old.primary.is_err() => {
            events.push(Event::PrimaryChanged {
                epoch: new.epoch,
                timeline: new.timeline,
                node: new.name(index),
            });
        }
        Err(reason) if old.primary.is_ok() => events.push(Event::PrimaryLost { reason }),
        _ => {}
    }
    events
}
