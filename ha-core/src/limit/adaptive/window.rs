use std::time::Duration;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

// 128 ns, so that a sum of 40 bits holds 39 hours.
const UNIT_SHIFT: u32 = 7;
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const SUM_MAX: u64 = (1 << (64 - COUNT_BITS)) - 1;

/// What came in since the last look. Any number of threads add; sum and count of the latencies are one word, so that a mean is
/// never made of the one without the other.
#[derive(Debug)]
pub(super) struct Window {
    answered: AtomicU64,
    losses: AtomicU32,
    most_in_flight: AtomicU32,
}

/// What a window came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The mean; none when nothing was answered.
    pub(super) latency: Option<Duration>,
    pub(super) answered: u32,
    pub(super) losses: u32,
    pub(super) most_in_flight: u32,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            answered: AtomicU64::new(0),
            losses: AtomicU32::new(0),
            most_in_flight: AtomicU32::new(0),
        }
    }

    /// Adds an answer, and says how many samples there are.
    pub(super) fn answered(&self, latency: Duration, in_flight: u32) -> u32 {
        self.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        let units = u64::try_from(latency.as_nanos() >> UNIT_SHIFT).unwrap_or(SUM_MAX);
        let word = self
            .answered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let (sum, count) = unpack(word);
                // What does not fit any more is left out.
                let sum = sum.checked_add(units).filter(|sum| *sum <= SUM_MAX)?;
                (count < COUNT_MAX).then_some(sum << COUNT_BITS | (count + 1))
            });
        let count = word.map_or_else(|full| unpack(full).1, |before| unpack(before).1 + 1);
        count as u32 + self.losses.load(Ordering::Relaxed)
    }

    /// Adds a loss, and says how many samples there are.
    pub(super) fn lost(&self, in_flight: u32) -> u32 {
        self.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        let losses = self
            .losses
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        losses.saturating_add(unpack(self.answered.load(Ordering::Relaxed)).1 as u32)
    }

    /// Takes everything out.
    pub(super) fn take(&self) -> Reading {
        let (sum, count) = unpack(self.answered.swap(0, Ordering::Relaxed));
        let mean = (sum << UNIT_SHIFT).checked_div(count);
        Reading {
            latency: mean.map(Duration::from_nanos),
            answered: count as u32,
            losses: self.losses.swap(0, Ordering::Relaxed),
            most_in_flight: self.most_in_flight.swap(0, Ordering::Relaxed),
        }
    }
}

const fn unpack(word: u64) -> (u64, u64) {
    (word >> COUNT_BITS, word & COUNT_MAX)
}
