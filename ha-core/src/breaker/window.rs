use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

const BUCKETS: u64 = 10;
const TICK_BITS: u32 = 20;
const COUNT_BITS: u32 = 22;
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Calls and failures of the last ten buckets. Each bucket is one word (tick, calls, failures), so that no reader
/// sees calls of one bucket with failures of another, and a bucket is reset by the first call that needs it anew.
///
/// A bucket counts four million calls and then stops; ticks wrap after a million buckets.
#[derive(Debug)]
pub(super) struct Window {
    buckets: [AtomicU64; BUCKETS as usize],
    bucket_nanos: u64,
}

fn pack(tick: u64, calls: u64, failures: u64) -> u64 {
    (tick & TICK_MASK) << (2 * COUNT_BITS) | calls << COUNT_BITS | failures
}

fn tick_of(word: u64) -> u64 {
    word >> (2 * COUNT_BITS)
}

fn calls_of(word: u64) -> u64 {
    word >> COUNT_BITS & COUNT_MASK
}

fn failures_of(word: u64) -> u64 {
    word & COUNT_MASK
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            bucket_nanos: (nanos(length) / BUCKETS).max(1),
        }
    }

    pub(super) fn record(&self, at_nanos: u64, calls: u64, failures: u64) {
        let tick = at_nanos / self.bucket_nanos;
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let tick = tick & TICK_MASK;
        let mut word = bucket.load(Ordering::Relaxed);
        loop {
            let ahead = tick.wrapping_sub(tick_of(word)) & TICK_MASK;
            let next = if ahead == 0 {
                if calls_of(word) + calls > COUNT_MASK {
                    return;
                }
                word + (calls << COUNT_BITS) + failures
            } else if ahead < 1 << (TICK_BITS - 1) {
                pack(tick, calls, failures)
            } else {
                // Another thread's clock was read later and has taken the bucket over: this call is out of the window.
                return;
            };
            match bucket.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Calls and failures in the window that ends now.
    pub(super) fn sum(&self, at_nanos: u64) -> (u64, u64) {
        let tick = at_nanos / self.bucket_nanos;
        self.buckets
            .iter()
            .fold((0, 0), |(calls, failures), bucket| {
                let word = bucket.load(Ordering::Relaxed);
                if tick.wrapping_sub(tick_of(word)) & TICK_MASK < BUCKETS {
                    (calls + calls_of(word), failures + failures_of(word))
                } else {
                    (calls, failures)
                }
            })
    }

    pub(super) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
