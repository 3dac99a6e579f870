//! How sure one can be that somebody has died who should have been heard from.
//!
//! A fixed timeout is either too short for a busy network or too long for a quiet one. The φ accrual failure detector (Hayashibara,
//! Défago, Yared and Katayama, 2004) learns how regularly heartbeats come and says how unlikely the present silence is: at φ = 1 one
//! silence in ten that is this long ends with a heartbeat after all, at φ = 8 one in a hundred million. What is taken from Akka and Cassandra:
//! intervals are held to be normally distributed, a deviation below a floor is not believed, and one pause is forgiven.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use ha_core::phi::{Phi, Rules};
//!
//! let second = Duration::from_secs(1);
//! let start = Instant::now();
//! let mut phi = Phi::new(Rules::every(second), start);
//! for beat in 1..=20 {
//!     phi.heartbeat(start + beat * second);
//! }
//! let last = start + 20 * second;
//! assert!(phi.at(last + second) < 1.0);
//! assert!(phi.at(last + phi.suspected_after(8.0)) >= 8.0);
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a [`Phi`] starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How often a heartbeat is promised: the estimate until there are intervals of its own.
    pub expected: Duration,
    /// The deviation that is believed at least. Twenty heartbeats of a machine at rest say nothing about one that swaps.
    pub min_deviation: Duration,
    /// Silence that is forgiven on top, such as one lost heartbeat.
    pub pause: Duration,
    /// How many intervals are remembered.
    pub window: usize,
}

impl Rules {
    /// For heartbeats that are promised this often: a quarter of it as the least deviation, one lost heartbeat forgiven, a hundred
    /// remembered. Silence is then suspected with φ = 8 after about 3.4 times the interval.
    #[must_use]
    pub fn every(expected: Duration) -> Self {
        Self {
            expected,
            min_deviation: expected / 4,
            pause: expected,
            window: 100,
        }
    }
}

/// What is known of one sender of heartbeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Phi {
    rules: Rules,
    /// Seconds between heartbeats, oldest first.
    intervals: VecDeque<f64>,
    last: Instant,
    /// Something was excused since the last heartbeat, so that the interval says nothing.
    excused: bool,
}

impl Phi {
    /// One that was heard from at `last`.
    #[must_use]
    pub fn new(rules: Rules, last: Instant) -> Self {
        Self {
            rules,
            intervals: VecDeque::new(),
            last,
            excused: false,
        }
    }

    /// It was heard from.
    pub fn heartbeat(&mut self, now: Instant) {
        let interval = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        if std::mem::take(&mut self.excused) {
            return;
        }
        if self.intervals.len() >= self.rules.window.max(1) {
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval);
    }

    /// Nobody could have been heard until now: the silence so far counts for nothing, and no interval is learnt from it.
    pub fn excuse(&mut self, now: Instant) {
        self.last = self.last.max(now);
        self.excused = true;
    }

    /// Nobody could have been heard for so long before `now`: that much of the silence counts for nothing, and no interval is learnt from it.
    pub fn excuse_for(&mut self, deaf: Duration, now: Instant) {
        let last = self.last + deaf.min(self.silence(now));
        self.excuse(last);
    }

    /// How long it has been silent.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    /// How unlikely it is that a heartbeat still comes, as the negative decimal logarithm of that chance; 0 is no suspicion at all.
    #[must_use]
    pub fn at(&self, now: Instant) -> f64 {
        self.after(self.silence(now).as_secs_f64())
    }

    /// The silence after which [`at`](Self::at) reaches `threshold`, as things are. A threshold that is not positive is reached at once.
    #[must_use]
    pub fn suspected_after(&self, threshold: f64) -> Duration {
        if threshold.is_nan() || threshold <= 0.0 {
            return Duration::ZERO;
        }
        let (mean, deviation) = self.estimate();
        let (mut low, mut high) = (0.0, mean + deviation);
        // A year of silence is death whatever the threshold.
        const LONGEST: f64 = 365.0 * 86_400.0;
        while self.after(high) < threshold && high < LONGEST {
            high *= 2.0;
        }
        for _ in 0..64 {
            let middle = f64::midpoint(low, high);
            if self.after(middle) < threshold {
                low = middle;
            } else {
                high = middle;
            }
        }
        // Rounded up, so that it is reached then.
        Duration::from_secs_f64(high) + Duration::from_nanos(1)
    }

    fn after(&self, silence: f64) -> f64 {
        let (mean, deviation) = self.estimate();
        let y = (silence - mean) / deviation;
        // The normal distribution's tail is 1 / (1 + e^z) with this z to within 0.00014; as a sum it does not underflow.
        let z = y * (1.5976 + 0.070_566 * y * y);
        if z < -500.0 {
            return 0.0;
        }
        (z + (-z).exp().ln_1p()) / std::f64::consts::LN_10
    }

    /// Mean, with what is forgiven, and deviation in seconds.
    fn estimate(&self) -> (f64, f64) {
        let floor = self.rules.min_deviation.as_secs_f64().max(1e-6);
        let pause = self.rules.pause.as_secs_f64();
        let expected = self.rules.expected.as_secs_f64();
        let count = self.intervals.len() as f64;
        // The promise counts as one interval, so that the first ones do not decide alone.
        let mean = (expected + self.intervals.iter().sum::<f64>()) / (count + 1.0);
        let square = |interval: &f64| (interval - mean) * (interval - mean);
        let sum: f64 = self.intervals.iter().map(square).sum::<f64>() + square(&expected);
        let deviation = (sum / (count + 1.0)).sqrt();
        (mean + pause, deviation.max(floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn regular(beats: u32) -> (Phi, Instant) {
        let start = Instant::now();
        let mut phi = Phi::new(Rules::every(SECOND), start);
        (1..=beats).for_each(|beat| phi.heartbeat(start + beat * SECOND));
        (phi, start + beats * SECOND)
    }

    #[test]
    fn suspicion_grows_with_silence_and_a_lost_heartbeat_is_forgiven() {
        for beats in [0, 1, 20, 500] {
            let (phi, last) = regular(beats);
            assert!(phi.at(last) < 0.01, "{beats}");
            assert!(phi.at(last + 2 * SECOND) < 1.0, "{beats}: one was lost");
            assert!(phi.at(last + 4 * SECOND) > 8.0, "{beats}");
            let after = phi.suspected_after(8.0);
            assert!(
                after > 3 * SECOND && after < 4 * SECOND,
                "{beats}: {after:?}"
            );
        }
    }

    #[test]
    fn who_is_irregular_is_given_more_time() {
        let start = Instant::now();
        let mut irregular = Phi::new(Rules::every(SECOND), start);
        let mut now = start;
        for beat in 0..50 {
            now += if beat % 2 == 0 {
                SECOND / 10
            } else {
                3 * SECOND
            };
            irregular.heartbeat(now);
        }
        let (regular, _) = regular(50);
        assert!(irregular.suspected_after(8.0) > 2 * regular.suspected_after(8.0));
    }

    #[test]
    fn silence_that_is_excused_counts_for_nothing_and_teaches_nothing() {
        let (mut phi, last) = regular(20);
        let before = phi.suspected_after(8.0);
        let now = last + 60 * SECOND;
        assert!(phi.at(now) > 100.0);
        phi.excuse(now);
        assert!(phi.at(now + SECOND) < 1.0);
        phi.heartbeat(now + SECOND);
        let after = phi.suspected_after(8.0);
        assert!(after.abs_diff(before) < SECOND / 10, "{before:?} {after:?}");
    }

    #[test]
    fn a_part_that_is_excused_leaves_the_rest_of_the_silence() {
        let (mut phi, last) = regular(20);
        let after = phi.suspected_after(8.0);
        // Deaf for a fifth of the time, again and again: the dead are found a quarter later.
        for look in 1..=20 {
            phi.excuse_for(SECOND / 20, last + look * (SECOND / 4));
        }
        let now = last + 5 * SECOND;
        assert_eq!(phi.silence(now), 4 * SECOND);
        assert!(phi.at(now) > 8.0);
        phi.excuse_for(60 * SECOND, now);
        assert_eq!(phi.silence(now), Duration::ZERO, "not more than there was");
        phi.heartbeat(now + SECOND / 100);
        assert_eq!(phi.suspected_after(8.0), after, "nothing was learnt");
    }

    #[test]
    fn thresholds_that_make_no_sense_are_reached_at_once_or_never_late() {
        let (phi, _) = regular(3);
        assert_eq!(phi.suspected_after(0.0), Duration::ZERO);
        assert_eq!(phi.suspected_after(f64::NAN), Duration::ZERO);
        assert!(phi.suspected_after(f64::INFINITY) > Duration::from_secs(86_400));
    }

    proptest! {
        #[test]
        fn phi_never_falls_while_there_is_silence(
            intervals in proptest::collection::vec(0_u64..10_000, 0..200),
            silence in 0_u64..100_000,
            threshold in 0.1_f64..20.0,
        ) {
            let start = Instant::now();
            let mut phi = Phi::new(Rules::every(SECOND), start);
            let mut now = start;
            for interval in intervals {
                now += Duration::from_millis(interval);
                phi.heartbeat(now);
            }
            let at = |ms: u64| phi.at(now + Duration::from_millis(ms));
            prop_assert!(at(silence) >= 0.0 && at(silence).is_finite());
            prop_assert!(at(silence) <= at(silence + 1) + 1e-9);
            let after = phi.suspected_after(threshold);
            prop_assert!(phi.at(now + after) >= threshold - 1e-6);
            prop_assert!(phi.at(now + after / 2) < threshold);
        }
    }
}
