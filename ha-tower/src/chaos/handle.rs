use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use ha_core::config::ConfigError;

use super::{Fault, Faults, Injected};

/// What all services of one layer have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) seed: u64,
    pub(super) on: AtomicBool,
    pub(super) faults: ArcSwap<Faults>,
    pub(super) has_errors: bool,
    pub(super) next: AtomicU64,
    pub(super) delays: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) statuses: AtomicU64,
    pub(super) cuts: AtomicU64,
}

impl Shared {
    /// What happens to the next request.
    pub(super) fn deal(&self) -> Injected {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let injected = self.faults.load().deal(self.seed, number);
        if injected.delay.is_some() {
            self.count(&self.delays, "delay");
        }
        match injected.fault {
            Some(Fault::Error) => self.count(&self.errors, "error"),
            Some(Fault::Status(_)) => self.count(&self.statuses, "status"),
            Some(Fault::Cut) => self.count(&self.cuts, "cut"),
            None => {}
        }
        injected
    }

    fn count(&self, counter: &AtomicU64, fault: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        metrics::counter!(
            "ha_chaos_injected_total",
            "chaos" => self.name.to_string(), "fault" => fault
        )
        .increment(1);
        #[cfg(not(feature = "metrics"))]
        let _ = fault;
    }

    pub(super) fn accepts(&self, faults: &Faults) -> Result<(), ConfigError> {
        check(faults, self.has_errors)
    }
}

pub(super) fn check(faults: &Faults, has_errors: bool) -> Result<(), ConfigError> {
    faults.validate()?;
    if faults.error_ratio > 0.0 && !has_errors {
        return Err(ConfigError::new(
            "chaos.error_ratio",
            faults.error_ratio,
            "needs error_with: somebody has to make the error",
        ));
    }
    Ok(())
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests that could have been hit: they matched while it was on.
    pub matched: u64,
    /// Those that were delayed.
    pub delays: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were answered with a status.
    pub statuses: u64,
    /// Those that were cut.
    pub cuts: u64,
}

/// Turns fault injection on and off, and says what it has done. Clones steer the same layer. Requests that are being delayed stay so.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// From now on, things go wrong.
    pub fn start(&self) {
        self.switch(true);
    }

    /// From now on, nothing goes wrong.
    pub fn stop(&self) {
        self.switch(false);
    }

    fn switch(&self, on: bool) {
        if self.0.on.swap(on, Ordering::Relaxed) != on {
            let chaos = &*self.0.name;
            crate::trace::warn!(chaos, on, "fault injection switched");
        }
    }

    /// Whether things go wrong.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    /// What goes wrong while it is on.
    #[must_use]
    pub fn faults(&self) -> Faults {
        **self.0.faults.load()
    }

    /// Other things go wrong from now on. Turns nothing on.
    ///
    /// # Errors
    /// [`ConfigError`] as for [`Faults::validate`], and when errors are wanted that nobody can make. Nothing has changed then.
    pub fn set(&self, faults: Faults) -> Result<(), ConfigError> {
        self.0.accepts(&faults)?;
        self.0.faults.store(Arc::new(faults));
        let chaos = &*self.0.name;
        crate::trace::warn!(chaos, ?faults, "fault injection changed");
        Ok(())
    }

    /// Deals from the start again, so that the next request gets what the first one got.
    pub fn rewind(&self) {
        self.0.next.store(0, Ordering::Relaxed);
    }

    /// What has been done so far; `matched` since the last [`rewind`](Self::rewind).
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            matched: read(&self.0.next),
            delays: read(&self.0.delays),
            errors: read(&self.0.errors),
            statuses: read(&self.0.statuses),
            cuts: read(&self.0.cuts),
        }
    }
}
