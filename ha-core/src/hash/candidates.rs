use std::iter::FusedIterator;

use super::key::{below, nth};
use super::members::Members;
use super::{Maglev, Rendezvous, Ring};

/// Draws by weight before the rest is taken in a fixed order. When sixteen choices were passed over, something else than balance matters.
const DRAWS: u32 = 16;

#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Ring(&'a Ring),
    Maglev(&'a Maglev),
    Rendezvous(&'a Rendezvous),
}

/// The questions that a table answers from its own `draw` and `members`.
macro_rules! by_key {
    ($table:ident) => {
        impl $table {
            /// Who this key belongs to, or none when nobody gets picks. Any number does as `hash`.
            #[inline]
            #[must_use]
            pub fn pick(&self, hash: u64) -> Option<usize> {
                self.draw(hash, 0).map(|index| index as usize)
            }

            /// Everyone who gets picks, the one that the key belongs to first.
            #[inline]
            #[must_use]
            pub fn candidates(&self, hash: u64) -> $crate::hash::Candidates<'_> {
                let source = $crate::hash::candidates::Source::$table(self);
                $crate::hash::Candidates::new(source, &self.members, hash)
            }
        }
    };
}
pub(super) use by_key;

/// The endpoints that get picks in the order in which one key prefers them, each once, as positions in the caller's
/// sequence. Allocates nothing.
///
/// The first is the one that the key belongs to. The next few are drawn by weight from other numbers made of the same hash, so that
/// keys which lose one endpoint go to many others and not all to one neighbour. After sixteen draws the rest follows in an
/// order that depends on the hash alone, so that the last endpoint that works is found.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    source: Source<'a>,
    members: &'a Members,
    hash: u64,
    attempt: u32,
    drawn: [u32; DRAWS as usize],
    count: usize,
    sweep: Sweep,
    left: usize,
}

/// A walk over all positions in equal steps, modulo a prime.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    at: u32,
    step: u32,
    prime: u32,
}

impl Sweep {
    fn new(hash: u64, prime: u32) -> Self {
        Self {
            at: below(nth(hash, DRAWS), prime),
            step: 1 + below(nth(hash, DRAWS + 1), prime - 1),
            prime,
        }
    }

    fn next(&mut self) -> u32 {
        let at = self.at;
        let next = u64::from(at) + u64::from(self.step);
        self.at = (next % u64::from(self.prime)) as u32;
        at
    }
}

impl<'a> Candidates<'a> {
    #[inline]
    pub(super) fn new(source: Source<'a>, members: &'a Members, hash: u64) -> Self {
        Self {
            source,
            members,
            hash,
            attempt: 0,
            drawn: [0; DRAWS as usize],
            count: 0,
            sweep: Sweep::new(hash, members.prime()),
            left: members.len(),
        }
    }

    #[inline]
    fn draw(&mut self) -> Option<u32> {
        let attempt = self.attempt;
        self.attempt += 1;
        match self.source {
            Source::Ring(ring) => ring.draw(self.hash, attempt),
            Source::Maglev(maglev) => maglev.draw(self.hash, attempt),
            Source::Rendezvous(rendezvous) => rendezvous.best(self.hash, self.drawn()),
        }
    }

    fn drawn(&self) -> &[u32] {
        &self.drawn[..self.count]
    }

    fn swept(&mut self) -> Option<u32> {
        loop {
            let position = self.sweep.next();
            // Positions from the number of members up to the prime are nobody's.
            if let Some(index) = self.members.index_at(position)
                && !self.drawn().contains(&index)
            {
                return Some(index);
            }
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        while self.attempt < DRAWS {
            let index = self.draw()?;
            if !self.drawn().contains(&index) {
                self.drawn[self.count] = index;
                self.count += 1;
                return Some(index as usize);
            }
        }
        self.swept().map(|index| index as usize)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Candidates<'_> {}
impl FusedIterator for Candidates<'_> {}
