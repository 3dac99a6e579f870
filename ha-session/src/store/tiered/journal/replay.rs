//! Telling PostgreSQL what was written ahead, in order, once it takes writes again.

use std::time::Duration;

use ha_core::backoff::Backoff;
use tokio::task::JoinHandle;

use super::files::Journal;
use super::record::{Changes, Entry};
use crate::id::SessionKey;
use crate::record::Version;
use crate::store::postgres::Replayed;
use crate::store::redis::Copies;
use crate::store::{Load, PostgresStore, Store as _, StoreError};

/// Tries again at once, and then ever less often, until PostgreSQL answers.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// How long one record may take before it is tried again.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Goes on as long as it lives. Dropped in the middle of a record, the next one begins with that record again: to be told twice is to be
/// told once.
pub(in crate::store::tiered) struct Replayer {
    task: JoinHandle<()>,
}

impl Replayer {
    pub(in crate::store::tiered) fn start(
        journal: Journal,
        postgres: PostgresStore,
        cache: Copies,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut retry = 0;
            loop {
                let pending = journal.next().await;
                let told = tokio::time::timeout(TIMEOUT, tell(&postgres, &pending.entry));
                let told = told
                    .await
                    .unwrap_or(Err(StoreError::Timeout { after: TIMEOUT }));
                match told {
                    Ok(replayed) => {
                        retry = 0;
                        settle(&journal, &postgres, &cache, &pending.entry, replayed).await;
                        journal.done(&pending, replayed == Replayed::Taken);
                    }
                    Err(error) => {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "session journal not replayed yet"
                        );
                        tokio::time::sleep(BACKOFF.delay(retry, random())).await;
                        retry = retry.saturating_add(1);
                    }
                }
            }
        });
        Self { task }
    }
}

impl Drop for Replayer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Spreads the tries of many app servers.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes all of them try at the same time, which is no harm beyond that.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

async fn tell(postgres: &PostgresStore, entry: &Entry) -> Result<Replayed, StoreError> {
    match entry {
        Entry::Changed(changes) => postgres.replay(changes).await,
        Entry::Ended(key) => postgres.end(*key, None).await.map(|_| Replayed::Taken),
    }
}

/// Takes the mark off the copy in Redis. Where that fails the copy is checked again like any other once the mark is too old.
async fn settle(
    journal: &Journal,
    postgres: &PostgresStore,
    cache: &Copies,
    entry: &Entry,
    replayed: Replayed,
) {
    let (key, version) = match entry {
        Entry::Changed(Changes { key, version, .. }) => (*key, *version),
        // Redis was told when it was written.
        Entry::Ended(_) => return,
    };
    if replayed != Replayed::Taken {
        tracing::warn!(
            outcome = ?replayed,
            "a change from the session journal is dropped, its session has ended elsewhere"
        );
    }
    if let Err(error) = settled(journal, postgres, cache, key, version).await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "copy of a replayed session not settled"
        );
    }
}

async fn settled(
    journal: &Journal,
    postgres: &PostgresStore,
    cache: &Copies,
    key: SessionKey,
    version: Version,
) -> Result<(), StoreError> {
    match postgres.load(key, Version::ZERO).await {
        Load::Found(record) if !record.superseded => {
            cache.settle(key, &record, journal.id(), version).await
        }
        Load::Found(record) => cache.retire(key, record.idle_left, Duration::ZERO).await,
        Load::Gone(_) => cache.end(key).await,
        Load::Unknown(error) => Err(error),
    }
}
