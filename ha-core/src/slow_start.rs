//! Slow start: an endpoint that is new, or back, takes its share little by little.
//!
//! Its caches are cold, its code is not compiled yet, its connections are not open. A full share from the first moment
//! makes it slow or knocks it over again, and with least-request policies it gets more than its share, because nothing is in
//! flight there yet.
//!
//! # Rules
//! - For the first `window` its weight counts `max(0.1, (t / window)^(1 / aggression))` times. Aggression 1 is a straight
//!   line; above, the share grows fast at first, below, late. This is the formula of Envoy's slow start.
//! - The window of one that is new is 30 s by default, and that of one that is back 5 s: it was warm a moment ago, and
//!   the others carry its load meanwhile.
//! - The set that a caller starts with is not new: when all ramp alike, nobody is spared.
//!
//! # How it is applied to a draw
//! By accepting a drawn candidate with the probability [`Ramp::accepts`] decides by, and drawing again otherwise. So the tables
//! of [`pick`](crate::pick) stay as they are while the share grows with every request, and what does not ramp costs one
//! relaxed read. Drawing again until one is accepted gives shares that follow `weight · factor` exactly; give up after a
//! few times ([`TRIES`]) and take what was drawn last, for nobody may be left when all ramp. For two random choices ask for each of
//! the two: one that is not accepted loses to the other whatever it costs. With many endpoints one that ramps
//! then gets at most twice its share, as any does that never has a request in flight.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use ha_core::slow_start::{Config, Ramp};
//!
//! let start = Instant::now();
//! let ramp = Ramp::new(Config::default(), start)?;
//! assert_eq!(ramp.factor(start), 1.0, "nothing has begun");
//! ramp.begin_new(start);
//! assert_eq!(ramp.factor(start), 0.1);
//! assert_eq!(ramp.factor(start + Duration::from_secs(15)), 0.5);
//! assert_eq!(ramp.factor(start + Duration::from_secs(30)), 1.0);
//! # Ok::<(), ha_core::config::ConfigError>(())
//! ```

use std::time::{Duration, Instant};

use crate::config::ConfigError;
use crate::sync::{AtomicU64, Ordering};

/// How often to draw again when a candidate is not accepted. With one of two endpoints at the least factor, 1 draw in 600
/// gets so far.
pub const TRIES: u32 = 8;

/// The numbers of slow start.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// How long a new endpoint takes to its full share. Default 30 s. Zero means at once.
    pub new_window: Duration,
    /// The same for one that was out and is back. Default 5 s: with the at most 9.6 s in which
    /// the default checks find it, it has its share back within 15 s. Zero means at once.
    pub recovered_window: Duration,
    /// How the share grows: 1 is a straight line, 2 has half of it after a quarter of the window. Default 1.
    pub aggression: f64,
    /// The least factor, so that there are requests at all to warm it up. Default 0.1.
    pub minimum_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            new_window: Duration::from_secs(30),
            recovered_window: Duration::from_secs(5),
            aggression: 1.0,
            minimum_ratio: 0.1,
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, window) in [
            ("slow_start.new_window", self.new_window),
            ("slow_start.recovered_window", self.recovered_window),
        ] {
            if window > DAY {
                let value = format_args!("{window:?}");
                return Err(ConfigError::new(
                    field,
                    value,
                    "must not be longer than a day",
                ));
            }
        }
        // NaN fails both of these as well.
        if !(self.aggression > 0.0 && self.aggression <= 100.0) {
            return Err(ConfigError::new(
                "slow_start.aggression",
                self.aggression,
                "must be above 0 and at most 100",
            ));
        }
        if !(self.minimum_ratio > 0.0 && self.minimum_ratio <= 1.0) {
            return Err(ConfigError::new(
                "slow_start.minimum_ratio",
                self.minimum_ratio,
                "must be above 0 and at most 1",
            ));
        }
        Ok(())
    }
}

/// How far one endpoint is. Shared by reference, without locks.
#[derive(Debug)]
pub struct Ramp {
    // Nanoseconds since the epoch at which it began, shifted by one; the lowest bit says which window. Zero is none.
    began: AtomicU64,
    epoch: Instant,
    config: Config,
}

const NONE: u64 = 0;
const RECOVERED: u64 = 1;

impl Ramp {
    /// No ramp yet: a full share.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            began: AtomicU64::new(NONE),
            epoch: now,
            config,
        })
    }

    /// The endpoint was added to a set that takes traffic already.
    pub fn begin_new(&self, now: Instant) {
        self.begin(now, 0);
    }

    /// The endpoint was out and is available again by all signals: its check passes, it is not ejected, and its breaker is not
    /// open. Call it once then, and not again when the half-open breaker closes: the ramp would begin anew.
    pub fn begin_recovered(&self, now: Instant) {
        self.begin(now, RECOVERED);
    }

    fn begin(&self, now: Instant, kind: u64) {
        // From 1, for zero is none. In one order with those who find the one before over.
        self.began
            .swap((self.nanos(now) + 1) << 1 | kind, Ordering::Relaxed);
    }

    /// What its weight is multiplied by, from the least ratio to 1.
    #[must_use]
    pub fn factor(&self, now: Instant) -> f64 {
        match self.began.load(Ordering::Relaxed) {
            NONE => 1.0,
            began => self.factor_since(began, now),
        }
    }

    /// Whether a candidate that was drawn is to be taken. `random` is uniform over all 64 bits and no longer needed once
    /// the window is over.
    #[inline]
    #[must_use]
    pub fn accepts(&self, now: Instant, random: u64) -> bool {
        match self.began.load(Ordering::Relaxed) {
            NONE => true,
            began => self.accepts_since(began, now, random),
        }
    }

    #[cold]
    fn accepts_since(&self, began: u64, now: Instant, random: u64) -> bool {
        let factor = self.factor_since(began, now);
        // 53 bits are what an f64 holds exactly.
        ((random >> 11) as f64) < factor * (1u64 << 53) as f64
    }

    fn factor_since(&self, began: u64, now: Instant) -> f64 {
        let window = if began & 1 == RECOVERED {
            self.config.recovered_window
        } else {
            self.config.new_window
        };
        let passed = self.nanos(now).saturating_sub((began >> 1) - 1);
        let passed = Duration::from_nanos(passed);
        if passed >= window {
            // Another ramp may have begun meanwhile.
            let over = Ordering::Relaxed;
            let _ = self.began.compare_exchange(began, NONE, over, over);
            return 1.0;
        }
        let part = passed.as_secs_f64() / window.as_secs_f64();
        part.powf(1.0 / self.config.aggression)
            .max(self.config.minimum_ratio)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        // 146 years fit beside the bit and the one that are added.
        u64::try_from(since.as_nanos()).map_or(u64::MAX >> 2, |nanos| nanos.min(u64::MAX >> 2))
    }
}

#[cfg(all(test, not(ha_loom)))]
mod tests {
    use super::*;
    use crate::endpoint::Weight;
    use crate::pick::Draw;
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);

    fn ramp(config: Config) -> (Ramp, Instant) {
        let now = Instant::now();
        (Ramp::new(config, now).unwrap(), now)
    }

    #[test]
    fn the_factor_follows_the_formula() {
        for (aggression, at, factor) in [
            (1.0, 0, 0.1),
            (1.0, 2, 0.1),
            (1.0, 6, 0.2),
            (1.0, 15, 0.5),
            (1.0, 29, 29.0 / 30.0),
            (1.0, 30, 1.0),
            (2.0, 15, 0.5f64.sqrt()),
            (0.5, 15, 0.25),
            (0.5, 3, 0.1),
        ] {
            let (ramp, now) = ramp(Config {
                aggression,
                ..Config::default()
            });
            ramp.begin_new(now + SEC);
            let found = ramp.factor(now + SEC + at * SEC);
            assert!(
                (found - factor).abs() < 1e-9,
                "{aggression} at {at}: {found}"
            );
        }
    }

    #[test]
    fn one_that_is_back_is_quicker_than_one_that_is_new_and_a_window_of_zero_is_none() {
        let (ramp, now) = ramp(Config::default());
        ramp.begin_recovered(now);
        assert!((ramp.factor(now + 2 * SEC) - 0.4).abs() < 1e-9);
        assert_eq!(ramp.factor(now + 5 * SEC), 1.0);
        let (ramp, now) = self::ramp(Config {
            new_window: Duration::ZERO,
            ..Config::default()
        });
        ramp.begin_new(now);
        assert!(ramp.accepts(now, u64::MAX));
    }

    #[test]
    fn a_window_that_is_over_stays_over_until_the_next_begins() {
        let (ramp, now) = ramp(Config::default());
        ramp.begin_new(now);
        assert_eq!(ramp.factor(now + 30 * SEC), 1.0);
        assert_eq!(
            ramp.factor(now),
            1.0,
            "an earlier clock does not bring it back"
        );
        ramp.begin_recovered(now + 40 * SEC);
        assert_eq!(ramp.factor(now + 40 * SEC), 0.1);
        assert_eq!(
            ramp.factor(now + 39 * SEC),
            0.1,
            "nor does it go below the least"
        );
    }

    fn randoms() -> impl FnMut() -> u64 {
        let mut state = 7u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x ^ (x >> 31)
        }
    }

    #[test]
    fn accepting_and_drawing_again_gives_shares_of_weight_times_factor() {
        let values = [1, 2, 3, 4];
        let draw = Draw::new(values.map(|v| Weight::new(v).unwrap()));
        let (ramp, now) = ramp(Config::default());
        ramp.begin_new(now);
        let mut random = randoms();
        for at in [0, 6, 15, 24, 30] {
            let at = now + at * SEC;
            let factor = ramp.factor(at);
            let mut hits = [0u32; 4];
            const N: u32 = 200_000;
            for _ in 0..N {
                let mut drawn = 0;
                for _ in 0..TRIES {
                    drawn = draw.one(random()).unwrap();
                    if drawn != 3 || ramp.accepts(at, random()) {
                        break;
                    }
                }
                hits[drawn] += 1;
            }
            let expected = 4.0 * factor / (6.0 + 4.0 * factor);
            let found = f64::from(hits[3]) / f64::from(N);
            assert!(
                (found - expected).abs() < 0.01,
                "factor {factor}: {found} for {expected}"
            );
            let ratio = f64::from(hits[2]) / f64::from(hits[0]);
            assert!((ratio - 3.0).abs() < 0.1, "the others keep theirs: {ratio}");
        }
    }

    #[test]
    fn senseless_numbers_are_refused_by_name_and_value() {
        type Spoil = fn(&mut Config);
        let cases: [(Spoil, &str); 5] = [
            (
                |c| c.new_window = 2 * DAY,
                "slow_start.new_window is 172800s",
            ),
            (
                |c| c.recovered_window = 2 * DAY,
                "slow_start.recovered_window is 172800s",
            ),
            (|c| c.aggression = f64::NAN, "slow_start.aggression is NaN"),
            (|c| c.minimum_ratio = 0.0, "slow_start.minimum_ratio is 0"),
            (|c| c.minimum_ratio = 10.0, "slow_start.minimum_ratio is 10"),
        ];
        for (spoil, text) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            let error = Ramp::new(config, Instant::now()).unwrap_err().to_string();
            assert!(error.starts_with(text), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_factor_never_falls_while_time_passes_and_stays_between_least_and_one(
            aggression in 0.1f64..10.0,
            minimum_ratio in 0.01f64..1.0,
            millis in prop::collection::vec(0u64..40_000, 2..50),
        ) {
            let (ramp, now) = ramp(Config { aggression, minimum_ratio, ..Config::default() });
            ramp.begin_new(now);
            let mut millis = millis;
            millis.sort_unstable();
            let mut last = minimum_ratio;
            for at in millis {
                let factor = ramp.factor(now + Duration::from_millis(at));
                prop_assert!(factor >= last && factor <= 1.0);
                last = factor;
            }
        }
    }
}

/// `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib slow_start::loom`
#[cfg(all(test, ha_loom))]
mod loom {
    use ::loom::sync::Arc;
    use ::loom::thread;

    use super::*;

    #[test]
    fn a_ramp_that_begins_while_the_one_before_is_found_over_is_not_lost() {
        let now = Instant::now();
        let late = now + Duration::from_secs(30);
        ::loom::model(move || {
            let ramp = Arc::new(Ramp::new(Config::default(), now).unwrap());
            ramp.begin_new(now);
            let other = {
                let ramp = ramp.clone();
                thread::spawn(move || ramp.factor(late))
            };
            ramp.begin_recovered(late);
            let factor = other.join().unwrap();
            assert!(factor == 1.0 || factor == 0.1);
            assert_eq!(ramp.factor(late), 0.1);
        });
    }
}
