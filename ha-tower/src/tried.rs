//! Which endpoints one request has tried already.
//!
//! A retry is worth more on another endpoint. The retry layer puts one [`Tried`] into the extensions of a request and
//! clones it into each attempt; the balancer writes its pick there *before* the attempt, because an attempt that times
//! out or is cancelled returns nothing that could carry the name, and passes over the endpoints it finds there while
//! another one is available.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ha_core::endpoint::EndpointKey;

/// The endpoints that the attempts of one request went to, in order. Clones share one list.
///
/// ```
/// use ha_tower::tried::Tried;
///
/// let tried = Tried::new();
/// let attempt = tried.clone();
/// attempt.record("app-1".into());
/// assert!(tried.contains(&"app-1".into()));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tried(Arc<Keys>);

#[derive(Debug, Default)]
struct Keys {
    // Most requests need one attempt, and no lock for it.
    first: OnceLock<EndpointKey>,
    further: Mutex<Vec<EndpointKey>>,
}

impl Tried {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether an attempt went to this endpoint.
    #[must_use]
    pub fn contains(&self, key: &EndpointKey) -> bool {
        match self.0.first.get() {
            None => false,
            Some(first) => first == key || self.further().contains(key),
        }
    }

    /// Notes that an attempt goes to this endpoint now. The same endpoint twice is two entries.
    pub fn record(&self, key: EndpointKey) {
        if let Err(key) = self.0.first.set(key) {
            self.further().push(key);
        }
    }

    /// How many attempts were noted.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        1 + self.further().len()
    }

    /// Whether no attempt was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first.get().is_none()
    }

    /// The endpoints so far, in the order of the attempts.
    #[must_use]
    pub fn snapshot(&self) -> Vec<EndpointKey> {
        let further = self.further();
        let first = self.0.first.get().into_iter();
        first.chain(further.iter()).cloned().collect()
    }

    // One request's attempts follow each other, so that this lock is never contended; hedging contends for a push.
    fn further(&self) -> MutexGuard<'_, Vec<EndpointKey>> {
        self.0
            .further
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_what_was_tried_in_order() {
        let tried = Tried::new();
        assert!(tried.is_empty());
        let attempt = tried.clone();
        attempt.record("b".into());
        attempt.record("a".into());
        assert_eq!(tried.len(), 2);
        assert_eq!(tried.snapshot(), ["b".into(), "a".into()]);
        assert!(tried.contains(&"a".into()) && !tried.contains(&"c".into()));
    }
}
