use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::meter::{Meter, Up};

/// Too many requests wait for a connection already.
#[derive(Debug)]
pub(super) struct Full;

/// How many connections there are and how many requests wait for one.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Counts {
    pub(in super::super) open: u32,
    pub(in super::super) idle: u32,
    pub(in super::super) pending: u32,
}

/// Bounds what happens at one endpoint at a time, and what waits for it.
#[derive(Debug)]
pub(super) struct Limits {
    slots: Arc<Semaphore>,
    pending: AtomicU32,
    max_pending: u32,
    open: Arc<AtomicU32>,
    meter: Meter,
}

impl Limits {
    pub(super) fn new(slots: usize, max_pending: u32, meter: &Meter) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            pending: AtomicU32::new(0),
            max_pending,
            open: Arc::default(),
            meter: meter.clone(),
        }
    }

    /// A place for one request, in the order of asking.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Full> {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = self.wait()?;
        self.slots.clone().acquire_owned().await.map_err(|_| Full)
    }

    fn wait(&self) -> Result<Waiting<'_>, Full> {
        let room = |pending| (pending < self.max_pending).then_some(pending + 1);
        self.pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map(|_| Waiting {
                pending: &self.pending,
                _told: self.meter.waits(),
            })
            .map_err(|_| Full)
    }

    pub(super) fn opened(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open {
            open: self.open.clone(),
            _told: self.meter.connected(),
        }
    }

    pub(super) fn counts(&self, idle: usize) -> Counts {
        Counts {
            open: self.open.load(Ordering::Relaxed),
            idle: idle.try_into().unwrap_or(u32::MAX),
            pending: self.pending.load(Ordering::Relaxed),
        }
    }
}

struct Waiting<'a> {
    pending: &'a AtomicU32,
    _told: Up,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection as open until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    open: Arc<AtomicU32>,
    _told: Up,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// One place, and a queue for so many.
    fn limits(max_pending: u32) -> Limits {
        Limits::new(1, max_pending, &Meter::new("test", &"a".into()))
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_gives_the_place_back_when_dropped() {
        let limits = limits(2);
        let held = limits.slot().await.unwrap();
        let mut first = Box::pin(limits.slot());
        let mut second = Box::pin(limits.slot());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(limits.slot().now_or_never().unwrap().is_err());
        assert_eq!(limits.counts(0).pending, 2);

        drop(first);
        assert_eq!(limits.counts(0).pending, 1);
        drop(held);
        let held = second.as_mut().now_or_never().unwrap().unwrap();
        assert_eq!(limits.counts(0).pending, 0);
        drop(held);
        assert!(limits.slot().now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn nobody_waits_when_nobody_may() {
        let limits = limits(0);
        let _held = limits.slot().await.unwrap();
        assert!(limits.slot().now_or_never().unwrap().is_err());
    }
}
