use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

/// Far enough for any answer, near enough for any clock.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Request extension: when the caller stops waiting for the response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The moment that is `rest` after `now`, a day at most.
    pub(super) fn after(now: Instant, rest: Duration) -> Self {
        Self(now + rest.min(LONGEST))
    }

    /// What is left at `now`; zero when the deadline has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Writes the earlier of this deadline and the one that is there already, and returns it.
    pub(super) fn narrow(self, extensions: &mut Extensions) -> Self {
        let outer = extensions.get::<Self>().copied();
        let deadline = outer.map_or(self, |outer| outer.min(self));
        extensions.insert(deadline);
        deadline
    }
}

/// Request extension: the deadline of this request is not told to other processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untold;
