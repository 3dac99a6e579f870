use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::candidates::by_key;
use super::key::{below, nth};
use super::members::{Member, Members, is_prime};
use crate::config::ConfigError;
use crate::endpoint::{EndpointKey, Weight};

/// The size of a [`Maglev`] table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaglevConfig {
    /// Entries of the table: a prime of at most [`MAX_TABLE_SIZE`](Self::MAX_TABLE_SIZE), and not fewer than there are
    /// endpoints. Default 65,537, the smaller one of the paper: 256 KiB, and shares within 1 % of the weights up to 655 endpoints
    /// of equal weight. Take at least a hundred entries per endpoint; 655,373 is the paper's larger one.
    pub table_size: u32,
}

impl MaglevConfig {
    /// The largest table, 5,000,011 entries (20 MB), as in Envoy.
    pub const MAX_TABLE_SIZE: u32 = 5_000_011;

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |reason| ConfigError::new("maglev.table_size", self.table_size, reason);
        if self.table_size > Self::MAX_TABLE_SIZE {
            return Err(refuse("must not be above 5000011"));
        }
        if !is_prime(self.table_size) {
            return Err(refuse("must be a prime number"));
        }
        Ok(())
    }
}

impl Default for MaglevConfig {
    fn default() -> Self {
        Self { table_size: 65_537 }
    }
}

/// A Maglev table: the endpoints take turns at filling it, each in an order of its own, and a key belongs to whoever has the
/// entry at its hash. A lookup is one multiplication and one read.
///
/// ```
/// use ha_core::endpoint::{EndpointKey, Weight};
/// use ha_core::hash::{Maglev, MaglevConfig, hash_key};
///
/// let endpoints = ["one", "two"].map(EndpointKey::from);
/// let table = Maglev::new(&MaglevConfig::default(), endpoints.iter().map(|key| (key, Weight::ONE)))?;
/// assert!(table.pick(hash_key(b"user 17")) < Some(2));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Maglev {
    members: Members,
    table: Box<[u32]>,
}

impl Maglev {
    /// A table of these endpoints. What it returns are positions in this sequence. Weight zero means no picks.
    ///
    /// # Errors
    /// As [`MaglevConfig::validate`]; `maglev.table_size` when there are more endpoints than entries; `endpoint.key` when a
    /// key is there twice.
    pub fn new<'a>(
        config: &MaglevConfig,
        endpoints: impl IntoIterator<Item = (&'a EndpointKey, Weight)>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let members = Members::new(endpoints)?;
        if members.len() > config.table_size as usize {
            return Err(ConfigError::new(
                "maglev.table_size",
                config.table_size,
                "must not be below the number of endpoints",
            ));
        }
        let table = fill(&members, config.table_size);
        Ok(Self { members, table })
    }

    #[inline]
    pub(super) fn draw(&self, hash: u64, attempt: u32) -> Option<u32> {
        let entry = below(nth(hash, attempt), self.table.len() as u32);
        self.table.get(entry as usize).copied()
    }
}

by_key!(Maglev);

/// One endpoint's order of preference: all entries, in steps of a size of its own.
struct Preference {
    next: u32,
    step: u32,
}

impl Preference {
    fn new(member: &Member, size: u32) -> Self {
        Self {
            next: below(nth(member.seed, 1), size),
            step: 1 + below(nth(member.seed, 2), size - 1),
        }
    }

    /// The best entry that nobody has yet. There must be one.
    fn take(&mut self, table: &mut [u32]) -> usize {
        let size = table.len() as u32;
        loop {
            let entry = self.next as usize;
            self.next = (self.next + self.step) % size;
            if table[entry] == FREE {
                return entry;
            }
        }
    }
}

const FREE: u32 = u32::MAX;

// The k-th turn of a member with weight w is due at k/w in this unit. Turns stay below 2^23 and weights below 2^20.
const DUE: u64 = 1 << 40;

fn fill(members: &Members, size: u32) -> Box<[u32]> {
    let mut turns: BinaryHeap<_> = (0..members.len()).map(|i| Reverse((0, 0, i))).collect();
    if turns.is_empty() {
        return Box::default();
    }
    let all: Vec<&Member> = members.iter().collect();
    let mut preferences: Vec<Preference> = all.iter().map(|m| Preference::new(m, size)).collect();
    let mut table = vec![FREE; size as usize];
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else {
            break;
        };
        let Reverse((due, turn_number, i)) = &mut *turn;
        let entry = preferences[*i].take(&mut table);
        table[entry] = all[*i].index;
        *turn_number += 1;
        *due = *turn_number * DUE / u64::from(all[*i].weight);
    }
    table.into()
}
