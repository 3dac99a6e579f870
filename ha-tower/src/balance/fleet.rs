use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use ha_core::config::ConfigError;
use ha_core::endpoint::{Endpoint, EndpointKey, Weight};
use ha_core::hash::{Count, hash_key};
use ha_core::pick::Cursor;
use ha_core::spread::{self, Layout, Shares};

use super::State;
use super::pick::{Choice, Mode, Pick, Slot};
use super::policy::{Policy, Table};
use crate::clock::Moment;
use crate::tried::Tried;

/// What a group keeps from set to set.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) cursor: Cursor,
    pub(super) in_flight: Count,
}

/// The lanes by what tells groups apart: priority, region, and whether it is the caller's own zone.
pub(super) type Lanes = std::collections::HashMap<(u8, Arc<str>, bool), Arc<Lane>>;

/// Endpoints that take traffic together.
#[derive(Debug)]
pub(super) struct Group {
    // Close together: the pick compares these alone.
    pub(super) states: Box<[Arc<State>]>,
    /// Their positions in the whole set.
    pub(super) members: Box<[u32]>,
    pub(super) table: Table,
    pub(super) lane: Arc<Lane>,
}

/// One set of endpoints without their services: who takes how much, and how one is picked.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) groups: Box<[Group]>,
    states: Box<[Arc<State>]>,
    layout: Layout,
    // Both say the same. With one group there is nothing to draw, and its mode is all there is to know.
    mode: AtomicU8,
    shares: ArcSwap<Shares>,
}

/// What is asked of a pick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) tried: Option<&'a Tried>,
    pub(super) hash: Option<u64>,
    pub(super) random: u64,
}

impl Fleet {
    pub(super) fn new(
        policy: &Policy,
        spread: &spread::Config,
        lanes: &mut Lanes,
        endpoints: &[(&Endpoint, &Arc<State>)],
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let layout = Layout::new(spread, endpoints.iter().map(|(endpoint, _)| *endpoint))?;
        let groups = layout
            .groups()
            .iter()
            .map(|group| Group::new(policy, lanes, endpoints, group))
            .collect::<Result<_, _>>()?;
        let states: Box<[_]> = endpoints
            .iter()
            .map(|(_, state)| (*state).clone())
            .collect();
        let shares = layout.shares(|i| states[i].standing(now));
        let fleet = Self {
            groups,
            states,
            layout,
            mode: AtomicU8::new(Mode::of(&shares, 0).0),
            shares: ArcSwap::from_pointee(shares),
        };
        Ok(fleet)
    }

    pub(super) fn local_region_is_known(&self) -> bool {
        self.layout.local_region_is_known()
    }

    pub(super) fn is_panicking(&self) -> bool {
        self.shares.load().is_any_panicking()
    }

    /// Works out who takes how much, and says when to do so again although nothing changes.
    pub(super) fn refresh(&self, now: Instant) -> Option<Instant> {
        let again = self.states.iter().filter_map(|state| state.refresh(now));
        let again = again.min();
        let shares = self.layout.shares(|i| self.states[i].standing(now));
        self.mode.store(Mode::of(&shares, 0).0, Ordering::Relaxed);
        self.shares.store(Arc::new(shares));
        again
    }

    #[inline]
    pub(super) fn pick(
        &self,
        ask: &Ask<'_>,
        now: &Moment,
        slot: &mut Slot,
    ) -> Option<(&Group, Choice)> {
        let [only] = &*self.groups else {
            return self.pick_group(ask, now, slot);
        };
        let pick = Pick {
            group: only,
            mode: Mode(self.mode.load(Ordering::Relaxed)),
            ask,
            now,
        };
        let choice = pick.run(slot).or_else(|| pick.run_again(slot))?;
        Some((only, choice))
    }

    #[inline(never)]
    fn pick_group(&self, ask: &Ask<'_>, now: &Moment, slot: &mut Slot) -> Option<(&Group, Choice)> {
        let shares = self.shares.load();
        // A key must not come to another group with each request; and the pick inside needs other bits.
        let spot = ask.hash.unwrap_or(ask.random);
        let drawn = shares.draw(hash_key(&spot.to_le_bytes()))?;
        let mut among = |ask: &Ask<'_>| {
            let order = std::iter::once(drawn).chain(shares.others(drawn));
            order
                .filter_map(|g| Some((g, self.groups.get(g)?)))
                .find_map(|(g, group)| {
                    let mode = Mode::of(&shares, g);
                    let pick = Pick {
                        group,
                        mode,
                        ask,
                        now,
                    };
                    pick.run(slot).map(|choice| (group, choice))
                })
        };
        among(ask).or_else(|| {
            ask.tried?;
            among(&Ask {
                tried: None,
                ..*ask
            })
        })
    }
}

impl Group {
    fn new(
        policy: &Policy,
        lanes: &mut Lanes,
        endpoints: &[(&Endpoint, &Arc<State>)],
        group: &spread::Group,
    ) -> Result<Self, ConfigError> {
        let members = || group.members.iter().map(|i| &endpoints[*i as usize]);
        let weighted = members()
            .map(|(endpoint, _)| -> (&EndpointKey, Weight) { (&endpoint.key, endpoint.weight) });
        let place = (group.priority, group.region.clone(), group.own_zone);
        Ok(Self {
            table: policy.table(weighted)?,
            states: members().map(|(_, state)| (*state).clone()).collect(),
            members: group.members.clone(),
            lane: lanes.entry(place).or_default().clone(),
        })
    }
}
