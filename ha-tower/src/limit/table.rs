use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;

const WAYS: usize = 8;

/// When a key's burst is whole again, for a bounded number of keys.
///
/// Each key belongs to one row of eight. In a full row the key goes that is whole soonest: it has used least. One that is whole already
/// is like one that was never seen, so that forgetting it changes nothing.
#[derive(Debug)]
pub(super) struct Table {
    rows: Box<[Mutex<[Slot; WAYS]>]>,
    period: u64,
    forgotten: Arc<AtomicU64>,
}

/// Empty at zero, as one that was whole at the beginning.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    whole_at: u64,
}

impl Table {
    pub(super) fn new(keys: usize, period: Duration, forgotten: Arc<AtomicU64>) -> Self {
        let rows = keys.div_ceil(WAYS).next_power_of_two();
        Self {
            rows: (0..rows).map(|_| Mutex::default()).collect(),
            period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
            forgotten,
        }
    }
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let row = &self.rows[*key as usize & (self.rows.len() - 1)];
        let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
        let known = row
            .iter()
            .position(|slot| slot.key == *key && slot.whole_at > 0);
        let before = known.map(|at| Nanos::from(row[at].whole_at));
        let (answer, whole_at) = decide(before)?;
        let whole_at = whole_at.as_u64();
        let at = known.unwrap_or_else(|| {
            let soonest = (0..WAYS).min_by_key(|at| row[*at].whole_at).unwrap_or(0);
            // For a new key it is whole one period after now.
            let now = whole_at.saturating_sub(self.period);
            if row[soonest].whole_at > now {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
            }
            soonest
        });
        row[at] = Slot {
            key: *key,
            whole_at,
        };
        Ok(answer)
    }
}
