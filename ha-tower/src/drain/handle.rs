use std::future::{Future, IntoFuture};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::drain::{Config, Drain as Core, Phase};
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::layer::DrainLayer;
use crate::clock;

/// The switch that takes a server out of service, and the state that follows from it. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The drain as it is before its start.
    waiting: Core,
    /// The drain once it has started. Asked for every response, so it is one atomic load and no lock.
    begun: OnceLock<Core>,
    started: watch::Sender<bool>,
    in_flight: AtomicUsize,
    idle: watch::Sender<()>,
}

/// What a drain left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Requests that were still under way at the deadline and did not get their whole answer.
    pub requests_cut: usize,
    /// Connections that were still open at the deadline. [`Drain::enforce`] cannot see them and says 0.
    pub connections_cut: usize,
}

impl Report {
    /// Whether everything that was under way could finish.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.requests_cut == 0 && self.connections_cut == 0
    }
}

/// Sets the timing of a [`Drain`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// How long to say "not ready" and still accept. Default 5 s: longer than the interval of the health checks in
    /// front, so that they have seen it.
    pub const fn settle(mut self, settle: Duration) -> Self {
        self.config.settle = settle;
        self
    }

    /// How long after the start what is left is cut. Default 25 s: less than the 30 s that most supervisors wait before
    /// they kill.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// The switch, not yet thrown.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the deadline is zero, longer than a day, or before the end of the settle time.
    pub fn build(self) -> Result<Drain, ConfigError> {
        Core::new(self.config).map(Drain::from_core)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::from_core(Core::default())
    }
}

impl Drain {
    /// A switch with the default timing: 5 s to settle, cut at 25 s.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// To set the timing.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn from_core(core: Core) -> Self {
        Self {
            shared: Arc::new(Shared {
                waiting: core,
                begun: OnceLock::new(),
                started: watch::Sender::new(false),
                in_flight: AtomicUsize::new(0),
                idle: watch::Sender::new(()),
            }),
        }
    }

    /// Begins to drain; true when this call did it. Another call changes nothing.
    pub fn start(&self) -> bool {
        let mut core = self.shared.waiting;
        core.start(clock::now());
        let first = self.shared.begun.set(core).is_ok();
        if first {
            self.shared.started.send_replace(true);
        }
        first
    }

    /// The phase at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let begun = self.shared.begun.get();
        begun.map_or(Phase::Serving, |core| core.phase(clock::now()))
    }

    /// Whether the drain has started; reads no clock.
    pub(super) fn has_started(&self) -> bool {
        self.shared.begun.get().is_some()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What a readiness check should answer: `200` while serving, `503` from the start of the drain.
    #[must_use]
    pub fn readyz(&self) -> StatusCode {
        if self.has_started() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    }

    /// Requests whose response body has not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// A layer that counts requests until the end of their response bodies. While draining it says so in every response,
    /// `x-ha-draining: true`, by which a balancer of this crate leaves at once, and closes HTTP/1 connections after the next one.
    #[must_use]
    pub fn layer(&self) -> DrainLayer {
        DrainLayer::new(self.clone())
    }

    /// Resolves when new connections should be refused: at the end of the settle time.
    ///
    /// # Cancel safety
    ///
    /// Holds no state; drop it and ask again.
    pub fn signalled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Phase::Refusing)
    }

    /// Resolves when `phase` is reached.
    ///
    /// # Cancel safety
    ///
    /// Holds no state; drop it and ask again.
    pub fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.clone();
        async move {
            if phase == Phase::Serving {
                return;
            }
            let mut started = drain.shared.started.subscribe();
            // The sender lives in `drain`, so that this cannot end without a start.
            let _ = started.wait_for(|started| *started).await;
            let at = drain
                .shared
                .begun
                .get()
                .and_then(|core| core.reaches(phase));
            match at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Resolves when no request is in flight.
    ///
    /// # Cancel safety
    ///
    /// Holds no state; drop it and ask again.
    pub async fn idle(&self) {
        let mut idle = self.shared.idle.subscribe();
        while self.in_flight() > 0 {
            // The sender lives in `self`.
            let _ = idle.changed().await;
        }
    }

    /// Runs a server to its end, or to the deadline of this drain, whichever comes first.
    ///
    /// For servers that can stop gracefully but wait without bound, such as `axum::serve`. At the deadline the server's
    /// future is dropped. Connections that the server has spawned live until the runtime ends; requests are
    /// counted by [`layer`](Self::layer).
    ///
    /// # Errors
    ///
    /// The server's own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server.
    pub async fn enforce<F, T, E>(&self, server: F) -> Result<Report, E>
    where
        F: IntoFuture<Output = Result<T, E>>,
    {
        tokio::select! {
            biased;
            result = server.into_future() => result.map(|_| Report::default()),
            () = self.reached(Phase::Deadline) => {
                Ok(Report { requests_cut: self.in_flight(), connections_cut: 0 })
            }
        }
    }

    pub(super) fn enter(&self) -> InFlight {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(&self.shared))
    }
}

/// One request in flight, until dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.send_replace(());
        }
    }
}
