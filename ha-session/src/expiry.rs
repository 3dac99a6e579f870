//! When a session ends: after being idle, and in any case after its whole life.

use std::time::Duration;

use crate::error::ConfigError;

/// How long a session lives.
///
/// Both limits hold together and both are kept on the store's clock, so that skewed clocks of app servers do not
/// matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    idle: Duration,
    absolute: Duration,
}

impl Expiry {
    /// Twelve hours of not being used: a working day, after which a forgotten browser is no longer signed in.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(12 * 3600);
    /// Fourteen days in all: whoever holds a stolen cookie loses it then even while using it.
    pub const DEFAULT_ABSOLUTE: Duration = Duration::from_secs(14 * 24 * 3600);
    /// The longest life that is accepted, 400 days: browsers cap the age of cookies there (RFC 6265bis).
    pub const MAX_ABSOLUTE: Duration = Duration::from_secs(400 * 24 * 3600);

    /// Ends a session after `idle` without use and after `absolute` in any case.
    ///
    /// # Errors
    /// [`ConfigError`] when `idle` is shorter than a second, longer than `absolute`, or `absolute` is longer than
    /// [`MAX_ABSOLUTE`](Self::MAX_ABSOLUTE).
    pub fn new(idle: Duration, absolute: Duration) -> Result<Self, ConfigError> {
        if idle < Duration::from_secs(1) {
            return Err(ConfigError::IdleTooShort { idle });
        }
        if idle > absolute {
            return Err(ConfigError::IdleBeyondAbsolute { idle, absolute });
        }
        if absolute > Self::MAX_ABSOLUTE {
            return Err(ConfigError::AbsoluteTooLong { absolute });
        }
        Ok(Self { idle, absolute })
    }

    /// How long a session may be idle.
    #[must_use]
    pub const fn idle(&self) -> Duration {
        self.idle
    }

    /// How long a session may live.
    #[must_use]
    pub const fn absolute(&self) -> Duration {
        self.absolute
    }

    /// The same within a life of which only `absolute` is left.
    #[cfg(feature = "redis")]
    pub(crate) fn within(self, absolute: Duration) -> Self {
        Self {
            idle: self.idle.min(absolute),
            absolute,
        }
    }

    /// Whether a request that only read should extend the session: when a tenth of the idle window has passed and
    /// extending would gain something.
    #[must_use]
    pub fn needs_touch(&self, idle_left: Duration, absolute_left: Duration) -> bool {
        idle_left < self.idle - self.idle / 10 && idle_left < absolute_left
    }
}

impl Default for Expiry {
    fn default() -> Self {
        Self {
            idle: Self::DEFAULT_IDLE,
            absolute: Self::DEFAULT_ABSOLUTE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_touch_is_due_after_a_tenth_of_the_idle_window() {
        let expiry = Expiry::new(100 * SECOND, 1000 * SECOND).unwrap();
        assert!(!expiry.needs_touch(100 * SECOND, 900 * SECOND));
        assert!(!expiry.needs_touch(90 * SECOND, 900 * SECOND));
        assert!(expiry.needs_touch(89 * SECOND, 900 * SECOND));
        assert!(
            !expiry.needs_touch(50 * SECOND, 50 * SECOND),
            "the absolute end is next"
        );
    }

    #[test]
    fn inverted_zero_and_endless_limits_are_refused() {
        assert!(matches!(
            Expiry::new(Duration::ZERO, SECOND),
            Err(ConfigError::IdleTooShort { .. })
        ));
        assert!(matches!(
            Expiry::new(3 * SECOND, 2 * SECOND),
            Err(ConfigError::IdleBeyondAbsolute { .. })
        ));
        assert!(matches!(
            Expiry::new(SECOND, Duration::MAX),
            Err(ConfigError::AbsoluteTooLong { .. })
        ));
    }
}
