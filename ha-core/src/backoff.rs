//! Exponential backoff with full jitter.
//!
//! When a server stumbles, every client it was serving fails in the same moment. If each waits the same time, they all
//! come back together and knock it over again. Full jitter draws each wait uniformly from zero to a ceiling that doubles
//! with every retry, which spreads the returning load evenly (Marc Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015).
//!
//! The random number is an argument. Give every request its own: a generator that is cloned along with a service makes
//! all clones wait the same.

use std::time::Duration;

use crate::config::ConfigError;

/// How long to wait before each retry.
///
/// The default starts at 25 ms, doubles, and stops growing at 250 ms: the first retry usually goes to another
/// endpoint, so a long wait would only add latency, while three retries still spread over half a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            cap: Duration::from_millis(250),
        }
    }
}

impl Backoff {
    /// A backoff whose ceiling is `base` before the first retry, doubles with each further one and never exceeds `cap`.
    ///
    /// A `base` above `cap` is a constant ceiling of `cap`; a zero `base` never waits.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// Whether the numbers make sense together. What builds on a backoff asks this when it is built.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when `base` is above `cap`, or `cap` is longer than a day. A zero `base` is a choice: never wait.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_most_a_day("backoff.cap", self.cap)?;
        if self.base > self.cap {
            return Err(ConfigError::new(
                "backoff.base",
                format_args!("{:?}", self.base),
                "must not be longer than backoff.cap",
            ));
        }
        Ok(())
    }

    /// The longest wait before retry number `retry`, counted from 0.
    #[must_use]
    pub fn ceiling(&self, retry: u32) -> Duration {
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The wait before retry number `retry`, counted from 0, uniform in `0..=ceiling(retry)` for a uniform `random`.
    #[must_use]
    pub fn delay(&self, retry: u32, random: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling(retry).as_nanos()).unwrap_or(u64::MAX);
        // Multiplying and keeping the high half maps the whole range of `random` without the bias of a remainder.
        let nanos = ((u128::from(ceiling) + 1) * u128::from(random)) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let backoff = Backoff::default();
        for (retry, millis) in [
            (0, 25),
            (1, 50),
            (2, 100),
            (3, 200),
            (4, 250),
            (5, 250),
            (31, 250),
            (32, 250),
            (u32::MAX, 250),
        ] {
            assert_eq!(
                backoff.ceiling(retry),
                Duration::from_millis(millis),
                "retry {retry}"
            );
        }
    }

    #[test]
    fn the_ends_of_the_random_range_are_zero_and_the_ceiling() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(2, 0), Duration::ZERO);
        assert_eq!(backoff.delay(2, u64::MAX), Duration::from_millis(100));
        assert_eq!(backoff.delay(2, u64::MAX / 2), Duration::from_millis(50));
    }

    #[test]
    fn a_base_above_the_cap_is_the_cap_and_a_zero_base_never_waits() {
        let high = Backoff::new(Duration::from_secs(9), Duration::from_secs(1));
        assert_eq!(high.ceiling(0), Duration::from_secs(1));
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::from_secs(1)).delay(9, u64::MAX),
            Duration::ZERO
        );
    }

    #[test]
    fn an_inverted_or_endless_backoff_is_refused_by_value() {
        let secs = Duration::from_secs;
        for (base, cap, message) in [
            (
                9,
                1,
                "backoff.base is 9s: must not be longer than backoff.cap",
            ),
            (
                1,
                86_401,
                "backoff.cap is 86401s: must not be longer than a day",
            ),
        ] {
            let refused = Backoff::new(secs(base), secs(cap)).validate().unwrap_err();
            assert_eq!(refused.to_string(), message);
        }
        assert_eq!(Backoff::default().validate(), Ok(()));
        assert_eq!(Backoff::new(secs(0), secs(0)).validate(), Ok(()));
    }

    proptest! {
        #[test]
        fn a_delay_is_never_above_its_ceiling(base in 0u64.., cap in 0u64.., retry: u32, random: u64) {
            let backoff = Backoff::new(Duration::from_nanos(base), Duration::from_nanos(cap));
            prop_assert!(backoff.delay(retry, random) <= backoff.ceiling(retry));
            prop_assert!(backoff.ceiling(retry) <= Duration::from_nanos(cap));
        }

        #[test]
        fn a_larger_random_number_never_waits_less(retry in 0u32..40, a: u64, b: u64) {
            let backoff = Backoff::default();
            prop_assert!(backoff.delay(retry, a.min(b)) <= backoff.delay(retry, a.max(b)));
        }
    }
}
