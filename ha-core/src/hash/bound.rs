use crate::config::ConfigError;
use crate::endpoint::Weight;
use crate::sync::{AtomicU32, Ordering};

/// Requests in flight, at one endpoint or at all of them together.
#[derive(Debug, Default)]
pub struct Count(AtomicU32);

impl Count {
    /// None in flight.
    #[cfg(not(ha_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// How many there are.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more; returns how many that makes.
    pub fn take(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One more, unless there are `cap` already. Looking and taking are one step, so that two threads cannot both take the last place.
    #[must_use = "without a place the request must not be sent"]
    pub fn try_take(&self, cap: u32) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < cap).then_some(n + 1)
            })
            .is_ok()
    }

    /// One fewer. Call it once for each that was taken.
    pub fn release(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "released more often than taken");
    }
}

/// What became of the attempt to take a place at one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The place is taken.
    Taken,
    /// It is at its cap.
    Full,
    /// It gets nothing now for another reason, such as its health, its breaker or its own limit.
    Unavailable,
}

/// Why no candidate was taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// At least one endpoint was available, and all that were are at their caps.
    #[error("every available endpoint is at its cap")]
    Full,
    /// No endpoint was available.
    #[error("no endpoint is available")]
    Unavailable,
}

/// The bound of consistent hashing with bounded loads: no endpoint has more than its share of the requests in flight, times a factor.
///
/// The cap of an endpoint of weight `w` is `ceil(factor · T · w / Σw)`, where `T` counts all requests in flight and the new one. It is
/// kept exactly: the new request is counted in `T` first, and the place is taken only if the count stays within
/// the cap for that `T`, in one atomic step. So no count is ever above the cap for the largest `T` that there was, whatever
/// the threads do in between. A count may be above its cap for a while when requests elsewhere end; it then takes no new ones.
///
/// ```
/// use ha_core::endpoint::{EndpointKey, Weight};
/// use ha_core::hash::{Attempt, Bound, Count, Ring, RingConfig, hash_key};
///
/// let endpoints = ["one", "two", "three"].map(EndpointKey::from);
/// let weights = [Weight::ONE; 3];
/// let ring = Ring::new(&RingConfig::default(), endpoints.iter().zip(weights))?;
/// let bound = Bound::new(Bound::DEFAULT_FACTOR, weights)?;
/// let (total, counts) = (Count::default(), [const { Count::new() }; 3]);
///
/// // One hot key: a plain ring would send all twelve to one endpoint.
/// for _ in 0..12 {
///     bound.take(&total, ring.candidates(hash_key(b"hot")), |i, cap| {
///         if counts[i].try_take(cap) { Attempt::Taken } else { Attempt::Full }
///     }).expect("there is room for all");
/// }
/// // ceil(1.25 · 12 / 3)
/// assert!(counts.iter().all(|count| count.get() <= 5));
///
/// // When a request ends, its endpoint's count goes down first.
/// counts.iter().find(|count| count.get() > 0).inspect(|count| count.release());
/// total.release();
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bound {
    factor: f64,
    weights: Box<[u32]>,
    sum: f64,
}

impl Bound {
    /// A quarter above the even share: most requests stay with their first choice, and no endpoint needs more than a quarter of
    /// spare capacity. Nearer to 1 loads are more even and fewer keys stay.
    pub const DEFAULT_FACTOR: f64 = 1.25;

    // Each doubling makes up for half of the weight gone; the cap then exceeds any count.
    const WIDEST: u32 = 31;

    /// A bound for endpoints with these weights.
    ///
    /// # Errors
    /// `bound.factor` when it is not a finite number of at least 1: below it there is not room for all requests.
    pub fn new(
        factor: f64,
        weights: impl IntoIterator<Item = Weight>,
    ) -> Result<Self, ConfigError> {
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(ConfigError::new(
                "bound.factor",
                factor,
                "must be a finite number of at least 1",
            ));
        }
        let weights: Box<[u32]> = weights.into_iter().map(Weight::value).collect();
        let sum = weights.iter().map(|w| u64::from(*w)).sum::<u64>() as f64;
        Ok(Self {
            factor,
            weights,
            sum,
        })
    }

    /// The most requests that the endpoint at `index` may have when there are `total`, the new one counted. Zero for a weight of
    /// zero and for an unknown index.
    #[must_use]
    pub fn cap(&self, index: usize, total: u32) -> u32 {
        let weight = self.weights.get(index).copied().unwrap_or(0);
        if weight == 0 {
            return 0;
        }
        // A total of 32 bits times a weight of 20 is exact in a double; the cast saturates.
        (self.factor * (f64::from(total) * f64::from(weight)) / self.sum).ceil() as u32
    }

    /// Counts a request in `total` and takes a place at the first of the `candidates` that has one. `attempt` gets the index and the
    /// cap, takes the place, as [`Count::try_take`] does, and says what became of it.
    ///
    /// While all endpoints are available the caps together have room for every request. The walk over them is not one step,
    /// however: when others take and release places meanwhile it can find each endpoint full at the moment it looks.
    ///
    /// # Errors
    /// [`Refused`]; the request is not counted then.
    pub fn take(
        &self,
        total: &Count,
        candidates: impl IntoIterator<Item = usize>,
        mut attempt: impl FnMut(usize, u32) -> Attempt,
    ) -> Result<usize, Refused> {
        let now = total.take();
        self.pass(candidates, |i| attempt(i, self.cap(i, now)))
            .inspect_err(|_| total.release())
    }

    /// As [`take`](Self::take), but while available endpoints are full their caps are doubled and all are asked again. For callers
    /// who would rather go above the bound than refuse: with most of the weight unavailable there is not room for all within it.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when no endpoint is available; [`Refused::Full`] when `attempt` says so at every cap.
    pub fn take_widening(
        &self,
        total: &Count,
        candidates: impl IntoIterator<Item = usize> + Clone,
        mut attempt: impl FnMut(usize, u32) -> Attempt,
    ) -> Result<usize, Refused> {
        let now = total.take();
        let mut doublings = 0;
        let result = loop {
            let widened = |cap: u32| cap.saturating_mul(1 << doublings);
            let result = self.pass(candidates.clone(), |i| {
                attempt(i, widened(self.cap(i, now)))
            });
            if result != Err(Refused::Full) || doublings == Self::WIDEST {
                break result;
            }
            doublings += 1;
        };
        result.inspect_err(|_| total.release())
    }

    fn pass(
        &self,
        candidates: impl IntoIterator<Item = usize>,
        mut attempt: impl FnMut(usize) -> Attempt,
    ) -> Result<usize, Refused> {
        let mut refused = Refused::Unavailable;
        for index in candidates {
            match attempt(index) {
                Attempt::Taken => return Ok(index),
                Attempt::Full => refused = Refused::Full,
                Attempt::Unavailable => {}
            }
        }
        Err(refused)
    }
}
