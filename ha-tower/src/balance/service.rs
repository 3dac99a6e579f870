use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use ha_core::breaker;
use ha_core::config::ConfigError;
use ha_core::endpoint::{Endpoint, EndpointKey, Weight};
use ha_core::load::PeakEwma;
use ha_core::subset::Subset;
use ha_core::{slow_start, spread};
use tower::BoxError;
use tower_service::Service;

use super::changes::{Changes, lock};
use super::fleet::{Ask, Fleet, Lanes};
use super::future::ResponseFuture;
use super::members::{Member, Members, Shared};
use super::{Any, Error, Event, Policy, Protocol, State, outlier};
use crate::clock::{self, Moment};

/// One service over many endpoints. See the [module](super).
#[derive(Debug)]
pub struct Balance<S, P = Any> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) protocol: P,
}

/// What changing the set needs and the pick, mostly, does not.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) measures: bool,
    pub(super) counts_picks: bool,
    pub(super) policy: Policy,
    pub(super) spread: spread::Config,
    pub(super) subset: Option<Subset>,
    pub(super) breaker: Option<breaker::Config>,
    pub(super) slow_start: Option<slow_start::Config>,
    // All loads are siblings of this one.
    pub(super) load: PeakEwma,
    pub(super) available_at_first: bool,
    pub(super) lanes: Mutex<Lanes>,
    // What was learned of those that have left the set and still have requests in flight.
    pub(super) departed: Mutex<HashMap<EndpointKey, Weak<State>>>,
    pub(super) updating: Mutex<()>,
}

impl<S, P: Clone> Clone for Balance<S, P> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            protocol: self.protocol.clone(),
        }
    }
}

type Known<'a, S> = HashMap<&'a EndpointKey, &'a Member<S>>;

impl Control {
    /// The set of these endpoints. `service` gives that of the `i`-th.
    pub(super) fn members<S>(
        &self,
        known: &Known<'_, S>,
        endpoints: Vec<Endpoint>,
        changes: &Arc<Changes>,
        mut service: impl FnMut(usize, &Endpoint) -> Option<S>,
    ) -> Result<Members<S>, ConfigError> {
        let chosen = self.chosen(&endpoints)?;
        let mut list = Vec::with_capacity(chosen.len());
        for (i, endpoint) in endpoints.into_iter().enumerate() {
            if !chosen.contains(&i) {
                continue;
            }
            let state = match known.get(&endpoint.key) {
                Some(member) => member.state.clone(),
                None => match self.departed(&endpoint.key) {
                    Some(state) => state,
                    None => self.state(&endpoint.key, changes, known.is_empty())?,
                },
            };
            if let Some(service) = service(i, &endpoint) {
                list.push(Member {
                    endpoint,
                    state,
                    service,
                });
            }
        }
        let fleet = self.fleet(&list)?;
        Ok(Members { list, fleet })
    }

    fn departed(&self, key: &EndpointKey) -> Option<Arc<State>> {
        lock(&self.departed).get(key)?.upgrade()
    }

    fn remember_departed<S>(&self, old: &Members<S>, new: &Members<S>) {
        let present: HashSet<_> = new.list.iter().map(|m| &m.endpoint.key).collect();
        let mut departed = lock(&self.departed);
        for member in &old.list {
            if !present.contains(&member.endpoint.key) {
                departed.insert(member.endpoint.key.clone(), Arc::downgrade(&member.state));
            }
        }
        departed.retain(|key, state| !present.contains(key) && state.strong_count() > 0);
    }

    fn fleet<S>(&self, list: &[Member<S>]) -> Result<Fleet, ConfigError> {
        let pairs: Vec<_> = list.iter().map(|m| (&m.endpoint, &m.state)).collect();
        let mut lanes = lock(&self.lanes);
        // Of groups that are gone, with all their requests.
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        Fleet::new(&self.policy, &self.spread, &mut lanes, &pairs, clock::now())
    }

    /// What is to be told when nobody stands in the region that the caller named as its own.
    pub(super) fn unknown_region<S>(&self, members: &Members<S>) -> Option<Event> {
        let region = &self.spread.local.region;
        let known = region.is_empty() || members.fleet.local_region_is_known();
        (!known && !members.list.is_empty()).then(|| Event::LocalRegionUnknown {
            region: region.clone(),
        })
    }

    /// The positions of the endpoints to use.
    fn chosen(&self, endpoints: &[Endpoint]) -> Result<HashSet<usize>, ConfigError> {
        let mut keys = HashSet::with_capacity(endpoints.len());
        if let Some(twice) = endpoints.iter().find(|e| !keys.insert(&e.key)) {
            return Err(ConfigError::new(
                "endpoint.key",
                &twice.key,
                "must be there only once",
            ));
        }
        let Some(subset) = &self.subset else {
            return Ok((0..endpoints.len()).collect());
        };
        let (used, unused): (Vec<_>, Vec<_>) =
            (0..endpoints.len()).partition(|i| endpoints[*i].weight > Weight::ZERO);
        let selected = subset.select(used.iter().map(|i| &endpoints[*i].key));
        Ok(selected
            .into_iter()
            .map(|i| used[i])
            .chain(unused)
            .collect())
    }

    fn state(
        &self,
        key: &EndpointKey,
        changes: &Arc<Changes>,
        at_first: bool,
    ) -> Result<Arc<State>, ConfigError> {
        let (breaker, ramp) = self.breaker_and_ramp()?;
        let state = State::new(
            key.clone(),
            breaker,
            self.load.sibling(),
            self.available_at_first,
            changes.ejector().map(outlier::Ejector::counters),
            ramp,
            changes.clone(),
        );
        let state = if self.breaker.is_some() {
            state
        } else {
            state.unguarded()
        };
        // When all are new, nobody is spared by it.
        if !at_first {
            state.begin_new(clock::now());
        }
        Ok(Arc::new(state))
    }
}

impl<S: Clone, P> Balance<S, P> {
    /// Replaces the set of endpoints. `service` is called for those that are new or have moved to another address; the
    /// others keep their service, and every key that was known keeps its state, one that left and comes back while it has requests
    /// in flight included. Requests in flight finish.
    ///
    /// # Errors
    /// `endpoint.key` when a key is there twice, and `maglev.table_size` when a Maglev table is too small for so many. Nothing has
    /// changed then.
    pub fn update(
        &self,
        endpoints: impl IntoIterator<Item = Endpoint>,
        mut service: impl FnMut(&Endpoint) -> S,
    ) -> Result<(), ConfigError> {
        let shared = &*self.shared;
        let one_at_a_time = lock(&shared.control.updating);
        let old = shared.members.load_full();
        let known: Known<'_, S> = old.list.iter().map(|m| (&m.endpoint.key, m)).collect();
        let endpoints = endpoints.into_iter().collect();
        let members =
            shared
                .control
                .members(&known, endpoints, &shared.changes, |_, endpoint| {
                    let same = known
                        .get(&endpoint.key)
                        .filter(|m| m.endpoint.address == endpoint.address);
                    Some(same.map_or_else(|| service(endpoint), |m| m.service.clone()))
                })?;
        shared.changes.watch(members.list.iter().map(|m| &m.state));
        shared.control.remember_departed(&old, &members);
        let event = updated(&old, &members);
        let unknown = shared.control.unknown_region(&members);
        shared.members.store(Arc::new(members));
        shared.changes.mark();
        // Whoever hears of it may change the set again.
        drop(one_at_a_time);
        shared.changes.tell(|| event);
        if let Some(event) = unknown {
            shared.changes.tell(|| event);
        }
        Ok(())
    }
}

fn updated<S>(old: &Members<S>, new: &Members<S>) -> Event {
    let keys = |members: &Members<S>| -> HashSet<EndpointKey> {
        members
            .list
            .iter()
            .map(|m| m.endpoint.key.clone())
            .collect()
    };
    let (before, after) = (keys(old), keys(new));
    let sorted = |a: &HashSet<EndpointKey>, b: &HashSet<EndpointKey>| {
        let mut keys: Vec<_> = a.difference(b).cloned().collect();
        keys.sort();
        keys
    };
    Event::Updated {
        added: sorted(&after, &before),
        removed: sorted(&before, &after),
        total: after.len(),
    }
}

impl<S, P> Balance<S, P> {
    /// How many endpoints are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.members.load().list.len()
    }

    /// Whether no endpoint is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether breakers and ejections are ignored somewhere now, because too few endpoints are left by what requests say.
    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.shared.is_panicking()
    }

    /// How many requests are in flight over all endpoints that are known.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let members = self.shared.members.load();
        let each = members.list.iter();
        each.map(|m| u64::from(m.state.load.in_flight())).sum()
    }

    /// Runs outlier ejection, for as long as a clone of this balancer lives; without
    /// [`outlier`](super::Builder::outlier) it ends at once. Spawn it once, on a runtime with timers. An
    /// [`Upstream`](crate::upstream::Upstream) does so by itself.
    ///
    /// It sleeps until the next change: the end of an interval or of an ejection, or a run of failures that is complete.
    ///
    /// # Cancel safety
    /// Dropping it stops the ejector; those that are ejected stay so. Another call goes on.
    pub fn drive(&self) -> impl Future<Output = ()> + Send + use<S, P> {
        outlier::drive(self.shared.changes.clone())
    }

    pub(crate) fn states(&self) -> Vec<(Endpoint, Arc<State>)> {
        let members = self.shared.members.load();
        let each = members.list.iter();
        each.map(|m| (m.endpoint.clone(), m.state.clone()))
            .collect()
    }

    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.shared.changes
    }
}

impl<S: Clone, P> Balance<S, P> {
    pub(crate) fn services(&self) -> Vec<(Endpoint, Arc<State>, S)> {
        let members = self.shared.members.load();
        members
            .list
            .iter()
            .map(|m| (m.endpoint.clone(), m.state.clone(), m.service.clone()))
            .collect()
    }
}

impl<S, P, R> Service<R> for Balance<S, P>
where
    S: Service<R> + Clone,
    S::Error: Into<BoxError>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = Error;
    type Future = ResponseFuture<S, R, P>;

    /// Always ready: the endpoint's own readiness is waited for in the future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: R) -> ResponseFuture<S, R, P> {
        let mut members = self.shared.members.load();
        let tried = self.protocol.tried(&request);
        let key = self.shared.control.policy.key();
        let ask = Ask {
            // An empty list of tried endpoints needs no second look.
            tried: tried.filter(|tried| !tried.is_empty()),
            hash: key.and_then(|key| self.protocol.hash(&request, key)),
            random: fastrand::u64(..),
        };
        let now = Moment::default();
        let mut future = ResponseFuture::unavailable(self.protocol.clone(), members.list.len());
        let slot = future.flight().slot();
        let (group, choice) = loop {
            if let Some(picked) = self.shared.pick(&members, &ask, &now, slot) {
                break picked;
            }
            // There may be somebody in the set that has taken its place meanwhile.
            let newer = self.shared.members.load();
            if Arc::ptr_eq(&newer, &members) {
                return future;
            }
            members = newer;
        };
        let state = &group.states[choice.index()];
        let member = &members.list[group.members[choice.index()] as usize];
        let started = self.shared.started(state, &now);
        // Before anything that can panic.
        let flight = future.flight();
        flight.start(state, &group.lane, choice, started);
        if let Some(tried) = tried {
            tried.record(state.key.clone());
        }
        future.wait_for(member.service.clone(), request);
        future
    }
}
