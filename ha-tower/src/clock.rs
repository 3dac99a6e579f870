use std::cell::Cell;
use std::time::Instant;

// Through tokio, so that tests with paused time see the same clock here as in timers.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// One moment, read from the clock when it is first asked for. A read costs as much as the rest of a pick.
#[derive(Debug, Default)]
pub(crate) struct Moment(Cell<Option<Instant>>);

impl Moment {
    pub(crate) fn get(&self) -> Instant {
        self.0.get().unwrap_or_else(|| {
            let now = now();
            self.0.set(Some(now));
            now
        })
    }
}
