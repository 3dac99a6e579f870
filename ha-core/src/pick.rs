//! Drawing candidates by weight.
//!
//! Nothing here knows whether a candidate is available or what it costs; that is compared by the caller. Weights enter once, in
//! the draw: dividing a cost by the weight as well would count them twice.

use crate::endpoint::Weight;
use crate::sync::{AtomicUsize, Ordering};

/// Draws indices with probabilities that follow the weights, in constant time (Walker's alias method, built as by Vose).
///
/// ```
/// use ha_core::endpoint::Weight;
/// use ha_core::pick::Draw;
///
/// let draw = Draw::new([Weight::ONE, Weight::ONE, Weight::ONE]);
/// let (first, second) = draw.two(0x1234_5678_9abc_def0).unwrap();
/// assert_ne!(Some(first), second);
/// assert_eq!(Draw::new([]).two(7), None);
/// ```
#[derive(Debug, Clone)]
pub struct Draw {
    len: u32,
    // Empty when all weights are equal.
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    // Below it the slot stands for itself, above for the alias.
    threshold: u32,
    alias: u32,
}

impl Draw {
    /// A draw among as many candidates as there are weights. One of weight zero is never drawn, unless all are zero:
    /// leave those out before.
    pub fn new(weights: impl IntoIterator<Item = Weight>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(|w| u64::from(w.value())).collect();
        let len = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let sum: u64 = weights.iter().sum();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let slots = if equal || sum == 0 {
            Box::default()
        } else {
            alias(&weights, sum)
        };
        Self { len, slots }
    }

    /// How many candidates there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One candidate, or none when there is none. `random` is uniform over all 64 bits.
    #[inline]
    #[must_use]
    pub fn one(&self, random: u64) -> Option<usize> {
        (self.len > 0).then(|| self.index(random))
    }

    /// Two different candidates, the second only when there are two. `random` is uniform over all 64 bits.
    #[inline]
    #[must_use]
    pub fn two(&self, random: u64) -> Option<(usize, Option<usize>)> {
        let first = self.one(random)?;
        if self.len == 1 {
            return Some((first, None));
        }
        let mut random = random;
        if !self.slots.is_empty() {
            // Redrawing keeps the weights for the second; a few times is enough unless one weight dwarfs the others,
            // and then the uniform draw below decides between those.
            for _ in 0..3 {
                random = mix(random);
                let second = self.index(random);
                if second != first {
                    return Some((first, Some(second)));
                }
            }
        }
        if !self.slots.is_empty() {
            random = mix(random);
        }
        // With equal weights the lower half of the bits is still unused.
        let second = scale(random, self.len - 1) as usize;
        Some((first, Some(second + usize::from(second >= first))))
    }

    fn index(&self, random: u64) -> usize {
        let slot = scale(random >> 32, self.len);
        match self.slots.get(slot as usize) {
            Some(s) if random as u32 >= s.threshold => s.alias as usize,
            _ => slot as usize,
        }
    }
}

/// A number below `bound` from 32 random bits, by multiplication instead of division.
fn scale(random: u64, bound: u32) -> u32 {
    (((random & 0xffff_ffff) * u64::from(bound)) >> 32) as u32
}

/// Other bits from the same randomness (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn alias(weights: &[u64], sum: u64) -> Box<[Slot]> {
    let n = weights.len() as u64;
    // Scaled so that the mean is `sum`: integers all the way, no rounding before the last step.
    let mut scaled: Vec<u128> = weights.iter().map(|w| u128::from(w * n)).collect();
    let mean = u128::from(sum);
    let mut slots: Vec<Slot> = (0..weights.len())
        .map(|i| Slot {
            threshold: u32::MAX,
            alias: i as u32,
        })
        .collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|i| scaled[*i] < mean);
    while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
        slots[less] = Slot {
            threshold: ((scaled[less] << 32) / mean) as u32,
            alias: more as u32,
        };
        scaled[more] -= mean - scaled[less];
        if scaled[more] < mean {
            small.push(more);
        } else {
            large.push(more);
        }
    }
    slots.into()
}

/// A fixed order of turns in which each index comes as often as its weight says, spread out smoothly. A pick is one step of a
/// shared [`Cursor`].
///
/// ```
/// use ha_core::endpoint::Weight;
/// use ha_core::pick::{Cursor, Schedule};
///
/// let schedule = Schedule::new([Weight::new(3)?, Weight::ONE]);
/// let cursor = Cursor::default();
/// let turns: Vec<_> = (0..4).filter_map(|_| schedule.next(&cursor)).collect();
/// assert_eq!(turns, [0, 0, 1, 0]);
/// # Ok::<(), ha_core::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Schedule(Box<[u32]>);

/// Where a [`Schedule`] stands. One for all clones of a balancer; it may outlive a schedule.
#[derive(Debug, Default)]
pub struct Cursor(AtomicUsize);

// Turns in one round. Weights whose sum is larger are scaled down to it, each to at least one turn.
const LONGEST_ROUND: u64 = 4096;

impl Schedule {
    /// A schedule for these weights. Zero means no turn.
    pub fn new(weights: impl IntoIterator<Item = Weight>) -> Self {
        let mut weights: Vec<u64> = weights.into_iter().map(|w| u64::from(w.value())).collect();
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        weights.iter_mut().for_each(|w| *w /= divisor);
        let sum: u64 = weights.iter().sum();
        let longest = LONGEST_ROUND.max(weights.len() as u64);
        if sum > longest {
            for w in weights.iter_mut().filter(|w| **w > 0) {
                *w = (*w * longest / sum).max(1);
            }
        }
        Self(turns(&weights))
    }

    /// Whose turn it is, or none when nobody has one.
    #[inline]
    #[must_use]
    pub fn next(&self, cursor: &Cursor) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let turn = cursor.0.fetch_add(1, Ordering::Relaxed);
        Some(self.0[turn % self.0.len()] as usize)
    }

    /// How many turns a round has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody has a turn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Stride scheduling: the k-th turn of one with weight w is due at (k + ½)/w, and turns are taken as they fall due.
fn turns(weights: &[u64]) -> Box<[u32]> {
    let mut due: Vec<(f64, u32)> = weights
        .iter()
        .enumerate()
        .flat_map(|(i, w)| (0..*w).map(move |k| ((k as f64 + 0.5) / *w as f64, i as u32)))
        .collect();
    due.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    due.into_iter().map(|(_, i)| i).collect()
}

#[cfg(all(test, not(ha_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(values: &[u32]) -> Vec<Weight> {
        values.iter().map(|v| Weight::new(*v).unwrap()).collect()
    }

    // A fixed sequence, so that a failure can be repeated.
    fn randoms(n: u64) -> impl Iterator<Item = u64> {
        (0..n).map(|i| mix(i.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    fn shares(values: &[u32]) -> Vec<f64> {
        let draw = Draw::new(weights(values));
        let mut hits = vec![0.0; values.len()];
        for random in randoms(200_000) {
            hits[draw.one(random).unwrap()] += 1.0 / 200_000.0;
        }
        hits
    }

    #[test]
    fn single_draws_follow_the_weights_within_two_percent() {
        for values in [
            &[1, 1][..],
            &[1, 3],
            &[5, 0, 5],
            &[1, 2, 3, 4],
            &[1_000_000, 1, 1_000_000],
        ] {
            let sum: u32 = values.iter().sum();
            for (share, weight) in shares(values).iter().zip(values) {
                let expected = f64::from(*weight) / f64::from(sum);
                assert!(
                    (share - expected).abs() < 0.02,
                    "{values:?}: {share} for {weight}"
                );
            }
        }
    }

    #[test]
    fn two_draws_are_different_and_every_pair_comes_up() {
        let draw = Draw::new(weights(&[1, 1, 1]));
        let mut seen = std::collections::HashSet::new();
        for random in randoms(1_000) {
            let (a, b) = draw.two(random).unwrap();
            assert_ne!(Some(a), b);
            seen.insert((a, b.unwrap()));
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn the_second_draw_follows_the_weights_too() {
        let draw = Draw::new(weights(&[1, 1, 98]));
        let second_heavy = randoms(100_000)
            .map(|random| draw.two(random).unwrap())
            .filter(|(a, b)| *a == 2 || *b == Some(2))
            .count();
        assert!(second_heavy > 99_000, "{second_heavy}");
    }

    #[test]
    fn none_and_one_are_no_special_trouble() {
        assert_eq!(Draw::new([]).two(1), None);
        assert!(Draw::new([]).is_empty());
        assert_eq!(Draw::new([Weight::ONE]).two(u64::MAX), Some((0, None)));
        assert_eq!(Schedule::new([]).next(&Cursor::default()), None);
        assert!(Schedule::new([Weight::ZERO]).is_empty());
    }

    #[test]
    fn one_round_gives_each_exactly_its_turns() {
        for (values, round) in [
            (&[1, 1, 1][..], 3),
            (&[2, 4], 3),
            (&[5, 0, 1], 6),
            (&[1_000_000, 500_000], 3),
        ] {
            let schedule = Schedule::new(weights(values));
            assert_eq!(schedule.len(), round, "{values:?}");
            let cursor = Cursor::default();
            let mut turns = vec![0; values.len()];
            for _ in 0..round {
                turns[schedule.next(&cursor).unwrap()] += 1;
            }
            let sum: u32 = values.iter().sum();
            for (turn, weight) in turns.iter().zip(values) {
                assert_eq!(turn * sum, weight * round as u32, "{values:?}");
            }
        }
    }

    #[test]
    fn a_small_weight_beside_a_huge_one_still_gets_a_turn() {
        let schedule = Schedule::new(weights(&[1_000_000, 1]));
        assert!(schedule.0.contains(&1));
        assert!(schedule.len() <= 4097);
    }

    #[test]
    fn turns_are_spread_and_not_bunched() {
        let schedule = Schedule::new(weights(&[4, 1, 1]));
        let longest_run = schedule.0.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
        assert!(longest_run <= Some(2), "{:?}", schedule.0);
    }

    proptest! {
        #[test]
        fn draws_stay_in_bounds_and_never_hit_weight_zero(
            values in prop::collection::vec(0u32..=1_000_000, 1..40),
            seed in any::<u64>(),
        ) {
            prop_assume!(values.iter().any(|v| *v > 0));
            let draw = Draw::new(weights(&values));
            for i in 0..200 {
                let index = draw.one(mix(seed ^ i)).unwrap();
                prop_assert!(values[index] > 0);
            }
        }

        #[test]
        fn shares_of_a_round_are_within_two_percent(values in prop::collection::vec(0u32..=10_000, 1..20)) {
            let schedule = Schedule::new(weights(&values));
            let sum = f64::from(values.iter().sum::<u32>());
            for (i, value) in values.iter().enumerate() {
                let turns = schedule.0.iter().filter(|t| **t as usize == i).count() as f64;
                if !schedule.is_empty() {
                    let share = turns / schedule.len() as f64;
                    prop_assert!((share - f64::from(*value) / sum).abs() <= 0.02);
                }
            }
        }
    }
}

/// Run by `cargo xtask ci`.
#[cfg(all(test, ha_loom))]
mod loom {
    use super::*;
    use ::loom::thread;
    use std::sync::Arc;

    #[test]
    fn two_threads_share_out_the_turns_of_a_round_between_them() {
        ::loom::model(|| {
            let cursor = Arc::new(Cursor::default());
            let schedule = Arc::new(Schedule::new([Weight::ONE; 4]));
            let two_turns = |schedule: &Schedule, cursor: &Cursor| {
                [(); 2].map(|()| schedule.next(cursor).unwrap())
            };
            let other = {
                let (schedule, cursor) = (schedule.clone(), cursor.clone());
                thread::spawn(move || two_turns(&schedule, &cursor))
            };
            let mut turns = two_turns(&schedule, &cursor).to_vec();
            turns.extend(other.join().unwrap());
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2, 3]);
        });
    }
}
