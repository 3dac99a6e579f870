//! What the listeners of a source were told, in words, and an upstream that follows it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_tower::balance::RoundRobin;
use ha_tower::discover::{Event, Source};
use ha_tower::upstream::Upstream;

#[derive(Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Mutex<Vec<String>>>);

impl Told {
    pub(crate) fn listen(
        &self,
        source: impl Into<Source>,
        words: impl Fn(&Event) -> String + Send + Sync + 'static,
    ) -> Source {
        let told = self.clone();
        source
            .into()
            .on_event(move |event| told.0.lock().unwrap().push(words(event)))
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until something was told with these words in it.
    pub(crate) async fn hear(&self, words: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.all().iter().any(|told| told.contains(words)) {
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{words:?} is not among {:#?}", self.all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn upstream(source: impl Into<Source>) -> Upstream {
    Upstream::builder("apps")
        .discover(source)
        .balance(RoundRobin)
        // These tests count whole shares.
        .slow_start(None)
        .build()
        .unwrap()
}
