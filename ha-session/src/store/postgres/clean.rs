//! Deleting what ended, a little at a time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, ms, row};
use crate::error::ConfigError;
use crate::expiry::Expiry;
use crate::store::StoreError;

const CLEAN: &str = "select deleted, wait_ms from ha_session_clean_2($1, $2, $3, $4)";

/// How long one batch may take: far more than it needs, so that a server that hangs is left and asked again later.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How fast ended sessions are deleted, by all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    batch: u32,
    pause: Duration,
    idle: Duration,
}

impl Pace {
    /// Five hundred rows at a time: some milliseconds of work.
    pub const DEFAULT_BATCH: u32 = 500;
    /// A tenth of a second between batches, so that at most 5,000 rows a second are deleted: a million in some minutes, while most
    /// of the time is left to the requests.
    pub const DEFAULT_PAUSE: Duration = Duration::from_millis(100);
    /// Half a minute until it is looked again once there was less than a batch.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(30);

    /// At most `batch` rows at a time, with `pause` between two batches.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] when one of them is zero.
    pub fn new(batch: u32, pause: Duration) -> Result<Self, ConfigError> {
        for (setting, zero) in [("batch", batch == 0), ("pause", pause.is_zero())] {
            if zero {
                return Err(ConfigError::Zero { setting });
            }
        }
        Ok(Self {
            batch,
            pause,
            idle: Self::DEFAULT_IDLE.max(pause),
        })
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            batch: Self::DEFAULT_BATCH,
            pause: Self::DEFAULT_PAUSE,
            idle: Self::DEFAULT_IDLE,
        }
    }
}

/// Deletes ended sessions as long as it lives; see [`PostgresStore::clean`]. Dropping it stops it.
pub struct Cleaner {
    task: JoinHandle<()>,
    deleted: Arc<AtomicU64>,
}

impl Cleaner {
    pub(super) fn start(store: PostgresStore, pace: Pace) -> Self {
        let deleted = Arc::<AtomicU64>::default();
        let count = Arc::clone(&deleted);
        let task = tokio::spawn(async move {
            loop {
                let wait = match clean(&store, pace).await {
                    Ok((rows, wait)) => {
                        count.fetch_add(rows, Ordering::Relaxed);
                        // The node that comes first after the pause has the turn.
                        wait.clamp(pace.pause, pace.idle)
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "ended sessions not deleted");
                        pace.idle
                    }
                };
                tokio::time::sleep(wait).await;
            }
        });
        Self { task, deleted }
    }

    /// How many rows this one has deleted.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner")
            .field("deleted", &self.deleted())
            .finish_non_exhaustive()
    }
}

/// One batch if it is time for one: how many rows it deleted, and when to ask again.
async fn clean(store: &PostgresStore, pace: Pace) -> Result<(u64, Duration), StoreError> {
    let batch = i32::try_from(pace.batch).unwrap_or(i32::MAX);
    let (pause, idle, longest) = (ms(pace.pause), ms(pace.idle), ms(Expiry::MAX_ABSOLUTE));
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&batch, Type::INT4),
        (&pause, Type::INT8),
        (&idle, Type::INT8),
        (&longest, Type::INT8),
    ];
    let rows = tokio::time::timeout(TIMEOUT, store.query(CLEAN, params));
    let timeout = StoreError::Timeout { after: TIMEOUT };
    row::cleaned(rows.await.unwrap_or(Err(timeout))?.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_of_nothing_is_refused_by_name() {
        let second = Duration::from_secs(1);
        for (batch, pause, name) in [(0, second, "batch"), (1, Duration::ZERO, "pause")] {
            let refused = Pace::new(batch, pause);
            assert_eq!(refused, Err(ConfigError::Zero { setting: name }));
        }
        assert_eq!(Pace::new(500, Pace::DEFAULT_PAUSE), Ok(Pace::default()));
    }
}
