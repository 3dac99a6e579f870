use std::collections::BTreeMap;

use super::ladder::{Capacity, ladder};
use super::layout::Group;

/// How an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standing {
    /// Takes requests. So does one whose breaker is half-open: without its probe it would never close, and a group of
    /// suspects has no share. Compute the shares anew when the wait of an open breaker is over.
    Available,
    /// Passes its active checks, but requests say no: its breaker is open, or it is ejected. Returns in panic.
    Suspect,
    /// Fails its active check. Never returns by panic.
    Failing,
    /// Says that what its whole region shares is gone. Takes none, unless most of its region says so and no other region
    /// has anything available.
    RegionSick,
}

/// Who takes how much of the traffic. Changes with every standing; drawing from it allocates nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    // Only groups with a share, each with the end of its part of all 64 bit numbers.
    ends: Box<[(u64, u32)]>,
    groups: Box<[State]>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    share: f64,
    usable: bool,
    panic: bool,
    uses_sick: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    total: u64,
    passing: u64,
    available: u64,
    says_sick: u64,
    // Nobody else can answer.
    uses_sick: bool,
}

impl Shares {
    pub(super) fn new(
        groups: &[Group],
        over_provisioning: f64,
        panic_ratio: f64,
        standing: impl Fn(usize) -> Standing,
    ) -> Self {
        let mut tallies: Vec<Tally> = groups.iter().map(|group| tally(group, &standing)).collect();
        skip_sick_regions(groups, &mut tallies);
        let mut priorities = priorities(groups, &tallies);
        panic(&mut priorities, over_provisioning, panic_ratio);
        let shares = of_priorities(&priorities, over_provisioning);
        let states: Vec<State> = priorities
            .iter()
            .zip(shares)
            .flat_map(|(priority, share)| priority.states(share, over_provisioning))
            .collect();
        Self {
            ends: ends(&states),
            groups: states.into(),
        }
    }

    /// The group for one request, or none when no endpoint may be used. `random` is uniform over all 64 bits; what picks
    /// inside the group needs another.
    #[inline]
    #[must_use]
    pub fn draw(&self, random: u64) -> Option<usize> {
        let (last, before) = self.ends.split_last()?;
        let drawn = before.iter().find(|(end, _)| random < *end).unwrap_or(last);
        Some(drawn.1 as usize)
    }

    /// The other groups with anything to use, the preferred ones first: where to look when all of the drawn group
    /// was tried.
    pub fn others(&self, drawn: usize) -> impl Iterator<Item = usize> + '_ {
        let usable = move |i: &usize| self.groups[*i].usable && *i != drawn;
        (0..self.groups.len()).filter(usable)
    }

    /// The share of this group, as a ratio of all traffic.
    #[must_use]
    pub fn share(&self, group: usize) -> f64 {
        self.groups.get(group).map_or(0.0, |state| state.share)
    }

    /// Whether this group uses all endpoints that pass their active checks, whatever requests say of them.
    #[inline]
    #[must_use]
    pub fn is_panicking(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|state| state.panic)
    }

    /// Whether this group uses endpoints that call their region sick, because no other region can answer.
    #[inline]
    #[must_use]
    pub fn uses_sick(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|state| state.uses_sick)
    }

    /// Whether any group that takes traffic panics.
    #[must_use]
    pub fn is_any_panicking(&self) -> bool {
        self.groups
            .iter()
            .any(|state| state.panic && state.share > 0.0)
    }
}

impl Tally {
    fn capacity(self, panic: bool) -> Capacity {
        Capacity {
            total: self.total,
            usable: if panic { self.passing } else { self.available },
        }
    }
}

fn tally(group: &Group, standing: impl Fn(usize) -> Standing) -> Tally {
    let mut tally = Tally::default();
    for (member, weight) in group.members.iter().zip(&group.weights) {
        let weight = u64::from(weight.value());
        tally.total += weight;
        match standing(*member as usize) {
            Standing::Available => {
                tally.passing += weight;
                tally.available += weight;
            }
            Standing::Suspect => tally.passing += weight,
            Standing::Failing => {}
            Standing::RegionSick => tally.says_sick += weight,
        }
    }
    tally
}

fn skip_sick_regions(groups: &[Group], tallies: &mut [Tally]) {
    if tallies.iter().all(|tally| tally.says_sick == 0) {
        return;
    }
    let mut regions: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (group, tally) in groups.iter().zip(tallies.iter()) {
        let (says_sick, total) = regions.entry(&group.region).or_default();
        *says_sick += tally.says_sick;
        *total += tally.total;
    }
    let is_sick = |group: &Group| {
        let (says_sick, total) = regions[&*group.region];
        says_sick * 2 > total
    };
    let mut pairs: Vec<_> = groups.iter().zip(tallies).collect();
    let elsewhere = |(group, tally): &(&Group, &mut Tally)| !is_sick(group) && tally.available > 0;
    let skip = pairs.iter().any(elsewhere);
    for (_, tally) in pairs.iter_mut().filter(|(group, _)| is_sick(group)) {
        if skip {
            tally.passing = 0;
            tally.available = 0;
        } else {
            // With nobody else to answer, their word decides nothing.
            tally.passing += tally.says_sick;
            tally.available += tally.says_sick;
            tally.uses_sick = true;
        }
    }
}

/// The groups of one priority.
struct Priority<'a> {
    groups: &'a [Group],
    tallies: &'a [Tally],
    panic: bool,
}

impl Priority<'_> {
    fn available(&self) -> Capacity {
        self.tallies.iter().map(|tally| tally.capacity(false)).sum()
    }

    fn passing(&self) -> Capacity {
        self.tallies.iter().map(|tally| tally.capacity(true)).sum()
    }

    fn states(&self, share: f64, over_provisioning: f64) -> Vec<State> {
        let tallies = self.tallies.iter();
        let capacities: Vec<_> = tallies.map(|tally| tally.capacity(self.panic)).collect();
        let parts = of_groups(self.groups, &capacities, over_provisioning);
        let pairs = parts.into_iter().zip(capacities).zip(self.tallies);
        pairs
            .map(|((part, capacity), tally)| State {
                share: share * part,
                usable: capacity.usable > 0,
                panic: self.panic,
                uses_sick: tally.uses_sick,
            })
            .collect()
    }
}

fn priorities<'a>(groups: &'a [Group], tallies: &'a [Tally]) -> Vec<Priority<'a>> {
    let chunks: Vec<_> = groups.chunk_by(|a, b| a.priority == b.priority).collect();
    let tallies = split_alike(&chunks, tallies);
    let pairs = chunks.into_iter().zip(tallies);
    pairs
        .map(|(groups, tallies)| Priority {
            groups,
            tallies,
            panic: false,
        })
        .collect()
}

/// Cuts `all` into pieces as long as the chunks.
fn split_alike<'a, T>(chunks: &[&[Group]], mut all: &'a [T]) -> Vec<&'a [T]> {
    chunks
        .iter()
        .map(|chunk| {
            let (piece, rest) = all.split_at(chunk.len());
            all = rest;
            piece
        })
        .collect()
}

fn panic(priorities: &mut [Priority<'_>], over_provisioning: f64, ratio: f64) {
    let healths = priorities
        .iter()
        .map(|priority| priority.available().health(over_provisioning));
    if healths.sum::<f64>() >= 1.0 {
        return;
    }
    for priority in priorities {
        let most = priority.passing().usable as f64 * ratio;
        priority.panic = (priority.available().usable as f64) < most;
    }
}

fn of_priorities(priorities: &[Priority<'_>], over_provisioning: f64) -> Vec<f64> {
    let available: Vec<Capacity> = priorities.iter().map(Priority::available).collect();
    if available.iter().any(|capacity| capacity.usable > 0) {
        return ladder(&available, over_provisioning);
    }
    let in_panic = priorities.iter().map(|priority| {
        if priority.panic {
            priority.passing()
        } else {
            Capacity::default()
        }
    });
    ladder(&in_panic.collect::<Vec<_>>(), over_provisioning)
}

/// The shares of the groups of one priority in what it takes.
fn of_groups(groups: &[Group], capacities: &[Capacity], over_provisioning: f64) -> Vec<f64> {
    let rungs: Vec<_> = groups.chunk_by(|a, b| a.rung == b.rung).collect();
    let capacities = split_alike(&rungs, capacities);
    let sums: Vec<Capacity> = capacities
        .iter()
        .map(|rung| rung.iter().copied().sum())
        .collect();
    let shares = ladder(&sums, over_provisioning);
    let steps = rungs.iter().zip(capacities).zip(shares);
    steps
        .flat_map(|((groups, capacities), share)| {
            // Of the own region there are two groups, by zone.
            let parts = if groups[0].rung == 0 {
                ladder(capacities, over_provisioning)
            } else {
                by_capacity(capacities)
            };
            parts.into_iter().map(move |part| part * share)
        })
        .collect()
}

fn by_capacity(capacities: &[Capacity]) -> Vec<f64> {
    let usable: u64 = capacities.iter().map(|capacity| capacity.usable).sum();
    capacities
        .iter()
        .map(|capacity| capacity.usable as f64 / usable.max(1) as f64)
        .collect()
}

fn ends(states: &[State]) -> Box<[(u64, u32)]> {
    let mut end = 0.0;
    (0u32..)
        .zip(states)
        .filter(|(_, state)| state.share > 0.0)
        .map(|(i, state)| {
            end += state.share;
            // 2^64; the cast saturates.
            ((end * 18_446_744_073_709_551_616.0) as u64, i)
        })
        .collect()
}
