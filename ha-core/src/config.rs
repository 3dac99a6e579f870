//! The error for settings that make no sense.

use std::fmt;
use std::time::Duration;

/// A setting that was refused when something was built. Names the field and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {reason}")]
pub struct ConfigError {
    field: &'static str,
    value: String,
    reason: &'static str,
}

impl ConfigError {
    /// An error about `field`, which was set to `value`.
    pub fn new(field: &'static str, value: impl fmt::Display, reason: &'static str) -> Self {
        Self {
            field,
            value: value.to_string(),
            reason,
        }
    }

    /// The setting, such as `breaker.window`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The value that was given, as text.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Refuses a duration of zero.
    ///
    /// # Errors
    /// When `value` is zero.
    pub fn positive(field: &'static str, value: Duration) -> Result<(), Self> {
        if value.is_zero() {
            return Err(Self::new(
                field,
                format_args!("{value:?}"),
                "must be longer than zero",
            ));
        }
        Ok(())
    }

    /// Refuses a duration of more than a day: a wait that long is a slip of units, and sums of it with an instant could
    /// overflow.
    ///
    /// # Errors
    /// When `value` is longer than 24 hours.
    pub fn at_most_a_day(field: &'static str, value: Duration) -> Result<(), Self> {
        if value > Duration::from_secs(86_400) {
            return Err(Self::new(
                field,
                format_args!("{value:?}"),
                "must not be longer than a day",
            ));
        }
        Ok(())
    }

    /// Refuses a count of zero.
    ///
    /// # Errors
    /// When `value` is zero.
    pub fn at_least_one(field: &'static str, value: u32) -> Result<(), Self> {
        if value == 0 {
            return Err(Self::new(field, value, "must be at least 1"));
        }
        Ok(())
    }
}
