use std::time::Instant;

// Through tokio, so that tests with paused time see the same clock here as in timers.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
