use std::time::Duration;

/// The first wait after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait while lookups fail.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// When to ask again.
#[derive(Debug)]
pub(super) struct Refresh {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Refresh {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            failures: 0,
        }
    }

    pub(super) fn after_success(&mut self, ttl: Duration, random: f64) -> Duration {
        self.failures = 0;
        // Never before the TTL is over: the resolver would answer from its cache.
        ttl.clamp(self.shortest, self.longest)
            .mul_f64(1.0 + 0.1 * random)
    }

    pub(super) fn after_failure(&mut self, random: f64) -> Duration {
        let wait = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - 0.1 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh() -> Refresh {
        Refresh::new(Duration::from_secs(1), Duration::from_secs(300))
    }

    #[test]
    fn the_ttl_is_honoured_within_its_bounds() {
        let mut refresh = refresh();
        let secs = Duration::from_secs;
        for (ttl, least) in [(0, 1), (60, 60), (86_400, 300)] {
            assert_eq!(refresh.after_success(secs(ttl), 0.0), secs(least));
            assert!(refresh.after_success(secs(ttl), 1.0) <= secs(least).mul_f64(1.11));
        }
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_until_one_succeeds() {
        let mut refresh = refresh();
        let waits: Vec<_> = (0..7)
            .map(|_| refresh.after_failure(0.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        refresh.after_success(Duration::ZERO, 0.0);
        assert_eq!(refresh.after_failure(0.0), FIRST_BACKOFF);
    }
}
