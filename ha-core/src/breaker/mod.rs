//! Circuit breaker.

mod config;

pub use config::Config;

/// What a breaker does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// Lets every call through and counts.
    Closed,
    /// Lets none through until its wait is over.
    Open,
    /// Lets one probe through at a time.
    HalfOpen,
}
