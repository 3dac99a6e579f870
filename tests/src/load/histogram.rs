use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Buckets per power of two: a quantile is at most 1/16 above the true value.
const STEPS: usize = 16;
/// Powers of two of microseconds: the last bucket begins above one hour.
const OCTAVES: usize = 33;
/// Seconds that a [`Series`] remembers (about 2 KiB each).
const SECONDS: usize = 3600;

/// Latencies in buckets of constant relative width, at a fixed size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; STEPS * OCTAVES],
            count: 0,
            max: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value.
    pub fn record(&mut self, value: Duration) {
        let bucket = &mut self.buckets[index(micros(value))];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Adds everything of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours = ours.saturating_add(*theirs);
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exactly; zero when empty.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// A value that at least `quantile` (0.0..=1.0) of all values do not exceed, never more than 1/16 (and 1 µs) above
    /// the smallest such one; `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += u64::from(*bucket);
            // The last bucket has no upper end but the largest value itself.
            if seen >= rank && index + 1 < self.buckets.len() {
                return Some(Duration::from_micros(upper(index)).min(self.max));
            }
        }
        Some(self.max)
    }
}

fn micros(value: Duration) -> u64 {
    u64::try_from(value.as_micros()).unwrap_or(u64::MAX)
}

/// Values below [`STEPS`] have a bucket each; above, each power of two has [`STEPS`].
fn index(micros: u64) -> usize {
    let steps = STEPS as u64;
    if micros < steps {
        return micros as usize;
    }
    let octave = (micros / steps).ilog2();
    let step = (micros >> octave) - steps;
    ((octave as usize + 1) * STEPS + step as usize).min(STEPS * OCTAVES - 1)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let (octave, step) = (index / STEPS - 1, index % STEPS);
    ((STEPS + step + 1) as u64 * (1 << octave)) - 1
}

/// Latencies by the second in which they ended, for the last hour.
#[derive(Debug, Clone)]
pub struct Series {
    start: Instant,
    /// The second that `seconds[0]` stands for.
    first: usize,
    seconds: VecDeque<Histogram>,
    total: Histogram,
}

impl Series {
    /// An empty one whose first second begins at `start`.
    pub fn starting(start: Instant) -> Self {
        Self {
            start,
            first: 0,
            seconds: VecDeque::new(),
            total: Histogram::new(),
        }
    }

    /// Adds a value that ended at `at`.
    pub fn record(&mut self, at: Instant, value: Duration) {
        self.total.record(value);
        let second = at.saturating_duration_since(self.start).as_secs() as usize;
        let Some(offset) = second.checked_sub(self.first) else {
            return;
        };
        if offset >= self.seconds.len() + SECONDS {
            // A gap of more than an hour: nothing of before is kept.
            self.seconds.clear();
            self.first = second;
        }
        while self.first + self.seconds.len() <= second {
            self.seconds.push_back(Histogram::new());
            if self.seconds.len() > SECONDS {
                self.seconds.pop_front();
                self.first += 1;
            }
        }
        self.seconds[second - self.first].record(value);
    }

    /// Everything of the seconds that began in `from..to`, and of the one that `from` lies in.
    pub fn window(&self, from: Instant, to: Instant) -> Histogram {
        let from = from.saturating_duration_since(self.start).as_secs() as usize;
        let to = to
            .saturating_duration_since(self.start)
            .as_secs_f64()
            .ceil() as usize;
        let mut sum = Histogram::new();
        for (offset, second) in self.seconds.iter().enumerate() {
            if (from..to).contains(&(self.first + offset)) {
                sum.merge(second);
            }
        }
        sum
    }

    /// Everything ever recorded, also what the hour has dropped.
    pub fn total(&self) -> Histogram {
        self.total.clone()
    }
}
