use std::time::{Duration, Instant};

use super::Percentile;
use crate::sync::{AtomicU64, Ordering};

/// How many calls are kept.
pub(super) const SAMPLES: usize = 1_024;

/// What is sorted is sorted once per tick, and the age of a sample is counted in ticks: 32 bits of them are 13 years.
const TICK: Duration = Duration::from_millis(100);

/// The newest samples, each a word of its own: the tick it was taken in (from 1) above, microseconds below.
#[derive(Debug)]
pub(super) struct Window {
    samples: Box<[AtomicU64]>,
    next: AtomicU64,
    /// The percentile in the same form: the tick it was computed in, and 0 microseconds when there is none.
    known: AtomicU64,
    origin: Instant,
    lifetime: u32,
    minimum_samples: usize,
    ratio: f64,
}

const fn pack(tick: u32, micros: u32) -> u64 {
    (tick as u64) << 32 | micros as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Rounded up, so that nothing takes no time and a sample is never below the truth.
fn to_micros(latency: Duration) -> u32 {
    let micros = latency.as_nanos().div_ceil(1_000).max(1);
    u32::try_from(micros).unwrap_or(u32::MAX)
}

impl Window {
    pub(super) fn new(percentile: &Percentile, samples: usize, now: Instant) -> Self {
        let ticks = percentile.window.as_millis() / TICK.as_millis();
        Self {
            samples: (0..samples).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(0),
            known: AtomicU64::new(0),
            origin: now,
            lifetime: u32::try_from(ticks).unwrap_or(u32::MAX),
            minimum_samples: percentile.minimum_samples as usize,
            ratio: percentile.percentile / 100.0,
        }
    }

    pub(super) fn record(&self, latency: Duration, now: Instant) {
        // Relaxed throughout: each word is a sample by itself, and one that is seen late is seen in the next tick.
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % self.samples.len() as u64;
        let sample = pack(self.tick(now), to_micros(latency));
        self.samples[slot as usize].store(sample, Ordering::Relaxed);
    }

    /// `None` with too few samples. At most one tick old while it is asked for.
    pub(super) fn percentile(&self, now: Instant) -> Option<Duration> {
        let tick = self.tick(now);
        let known = self.known.load(Ordering::Relaxed);
        let (computed, mut micros) = unpack(known);
        // Whoever moves the tick on sorts; the others go on with what is known.
        let mine = tick > computed
            && self
                .known
                .compare_exchange(
                    known,
                    pack(tick, micros),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if mine {
            micros = self.sort(tick);
            self.known.store(pack(tick, micros), Ordering::Relaxed);
        }
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    fn sort(&self, tick: u32) -> u32 {
        let mut live = [0u32; SAMPLES];
        let mut count = 0;
        for sample in &self.samples {
            let (taken, micros) = unpack(sample.load(Ordering::Relaxed));
            if taken > 0 && tick.saturating_sub(taken) < self.lifetime {
                live[count] = micros;
                count += 1;
            }
        }
        if count < self.minimum_samples {
            return 0;
        }
        // Nearest rank: the smallest sample that at least this share of them does not exceed.
        let rank = (self.ratio * count as f64).ceil() as usize;
        let (_, nth, _) = live[..count].select_nth_unstable(rank.clamp(1, count) - 1);
        *nth
    }

    fn tick(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.origin);
        let ticks = elapsed.as_millis() / TICK.as_millis() + 1;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}
