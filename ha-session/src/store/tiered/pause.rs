//! Leaving a store alone for a moment after it failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::millis;

/// Whether a store is asked, or passed over because it failed a moment ago. After the pause one caller tries it again, and the others only
/// once that has gone well: a store that hangs costs one of them its time, and not all.
pub(super) struct Pause {
    origin: Instant,
    length: Duration,
    /// When the next one may try, in milliseconds since `origin`; zero while all is well.
    until_ms: AtomicU64,
}

impl Pause {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            origin: Instant::now(),
            length,
            until_ms: AtomicU64::new(0),
        }
    }

    /// Whether to ask the store. Whoever does says how it went; one who never says so is one who failed.
    pub(super) fn passes(&self) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = millis(self.origin.elapsed());
        if now < until {
            return false;
        }
        let next = now + millis(self.length);
        let turn =
            self.until_ms
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
        turn.is_ok()
    }

    pub(super) fn failed(&self) {
        let until = millis(self.origin.elapsed() + self.length);
        self.until_ms.store(until, Ordering::Relaxed);
    }

    pub(super) fn succeeded(&self) {
        // A plain load is cheaper than a store that every core sees.
        if self.until_ms.load(Ordering::Relaxed) != 0 {
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_tries_and_the_others_wait_for_how_it_went() {
        let pause = Pause::new(LENGTH);
        assert!(pause.passes() && pause.passes());
        pause.failed();
        assert!(!pause.passes());
        tokio::time::advance(LENGTH).await;
        assert!(pause.passes(), "the one that tries");
        assert!(!pause.passes());
        // It was dropped and never says how it went.
        tokio::time::advance(LENGTH).await;
        assert!(pause.passes());
        pause.succeeded();
        assert!(pause.passes() && pause.passes());
    }
}
