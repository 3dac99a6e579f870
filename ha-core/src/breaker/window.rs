use std::time::Duration;

use crate::sync::{AtomicU64, Mutex, Ordering};

pub(super) const BUCKETS: u64 = 10;
const TICK_BITS: u32 = 20;
const COUNT_BITS: u32 = 22;
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;
pub(super) const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
// An eighth of the ticks that a word can tell apart.
pub(super) const ERA_BITS: u32 = TICK_BITS - 3;

/// Calls and failures of the last ten buckets. Each bucket is one word (tick, calls, failures), so that no reader
/// sees calls of one bucket with failures of another, and a bucket is reset by the first call that needs it anew.
///
/// Ticks wrap after a million buckets. Once in an era of 131,072 buckets, whoever comes first clears what has left the window, so that a
/// bucket that nobody has needed since can neither come back nor seem to be ahead. That takes a lock; nothing else does.
///
/// A bucket counts four million calls exactly. From then on it halves its counts whenever it is full: the ratio stays.
#[derive(Debug)]
pub(super) struct Window {
    buckets: [AtomicU64; BUCKETS as usize],
    bucket_nanos: u64,
    era: AtomicU64,
    clearing: Mutex<()>,
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

/// How far the bucket that holds `word` is behind `tick`; a huge number when it is ahead.
fn age(word: u64, tick: u64) -> u64 {
    tick.wrapping_sub(tick_of(word)) & TICK_MASK
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            bucket_nanos: (nanos(length) / BUCKETS).max(1),
            era: AtomicU64::new(0),
            clearing: Mutex::new(()),
        }
    }

    pub(super) fn record(&self, at_nanos: u64, calls: u64, failures: u64) {
        let tick = at_nanos / self.bucket_nanos;
        self.enter(tick);
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let mut word = bucket.load(Ordering::Relaxed);
        loop {
            let age = age(word, tick);
            let next = if age != 0 || calls_of(word) == 0 {
                if age > TICK_MASK / 2 && calls_of(word) != 0 {
                    // Another thread's clock was read later and has taken the bucket over: this call is out of the window.
                    return;
                }
                pack(tick, calls, failures)
            } else if calls_of(word) + calls > COUNT_MASK {
                pack(
                    tick,
                    calls_of(word) / 2 + calls,
                    failures_of(word) / 2 + failures,
                )
            } else {
                word + (calls << COUNT_BITS) + failures
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
        self.enter(tick);
        self.buckets
            .iter()
            .fold((0, 0), |(calls, failures), bucket| {
                let word = bucket.load(Ordering::Relaxed);
                if age(word, tick) < BUCKETS {
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

    fn enter(&self, tick: u64) {
        if tick >> ERA_BITS > self.era.load(Ordering::Acquire) {
            self.begin_era(tick);
        }
    }

    /// Nobody records in the new era before this is done, so that every word here is of the era that ends, or older.
    #[cold]
    fn begin_era(&self, tick: u64) {
        let _one_at_a_time = self
            .clearing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (era, ending) = (tick >> ERA_BITS, self.era.load(Ordering::Acquire));
        if era <= ending {
            return;
        }
        for bucket in &self.buckets {
            let word = bucket.load(Ordering::Relaxed);
            if era - ending > 1 || age(word, tick) >= BUCKETS {
                // One that changes meanwhile was needed by a thread that is a little behind.
                let _ = bucket.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        self.era.store(era, Ordering::Release);
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
