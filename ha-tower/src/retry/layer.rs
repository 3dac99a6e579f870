use std::sync::Arc;
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::budget::Budget;
use http::HeaderName;
use tokio::time::Instant;
use tower_layer::Layer;

use super::service::Retry;

/// Retries HTTP requests by the rules in the [module documentation](super).
///
/// One layer has one budget: all services made from it, and their clones, share it.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) attempts: u32,
    pub(super) budget: Arc<Budget>,
    pub(super) backoff: Backoff,
    pub(super) idempotency_key: bool,
    pub(super) replay_limit: usize,
    pub(super) hold_limit: u64,
    pub(super) hold_stall: Duration,
    pub(super) retry_after_cap: Duration,
    pub(super) attempts_header: Option<HeaderName>,
}

impl RetryLayer {
    /// The HTTP policy with its defaults.
    #[must_use]
    pub fn http() -> Self {
        Self {
            config: Arc::new(Config {
                attempts: 3,
                budget: Arc::new(Budget::standard(Instant::now().into_std())),
                backoff: Backoff::default(),
                idempotency_key: false,
                replay_limit: 64 * 1024,
                hold_limit: 32 * 1024,
                hold_stall: Duration::from_secs(1),
                retry_after_cap: Duration::from_secs(5),
                attempts_header: None,
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// How often a request is sent at most, the first time included. Default 3: the second attempt saves nearly
    /// everything that can be saved, the third covers two endpoints that die together. 0 and 1 never retry.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        self.with(|config| config.attempts = attempts)
    }

    /// The budget, to share it with other layers that send to the same place. Default: one of its own with 20 % of
    /// requests plus 10 per second over 10 s.
    #[must_use]
    pub fn budget(self, budget: Arc<Budget>) -> Self {
        self.with(|config| config.budget = budget)
    }

    /// The waits between attempts. Default: full jitter from 25 ms, doubling, up to 250 ms.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.with(|config| config.backoff = backoff)
    }

    /// Whether a POST or PATCH with an `Idempotency-Key` may be sent again. Default false.
    ///
    /// The header promises nothing by itself. Say yes only where the server stores the outcome together with the write
    /// and answers a repeated key with it; otherwise a retry can book twice.
    #[must_use]
    pub fn idempotency_key(self, honoured_by_the_server: bool) -> Self {
        self.with(|config| config.idempotency_key = honoured_by_the_server)
    }

    /// How many bytes of a request body are kept for another attempt. Default 64 KiB; a larger body is sent once.
    #[must_use]
    pub fn replay_limit(self, bytes: usize) -> Self {
        self.with(|config| config.replay_limit = bytes)
    }

    /// Responses of at most this many bytes are held until complete before their head is passed on. Default 32 KiB;
    /// 0 passes every head on at once.
    #[must_use]
    pub fn hold_small_responses(self, bytes: u64) -> Self {
        self.with(|config| config.hold_limit = bytes)
    }

    /// How long a held response may bring no byte before the attempt counts as failed. Default 1 s, as long as an
    /// attempt may take to its head.
    #[must_use]
    pub fn hold_stall(self, limit: Duration) -> Self {
        self.with(|config| config.hold_stall = limit)
    }

    /// The longest `Retry-After` that is waited for; a longer one ends the retries. Default 5 s: beyond that the caller
    /// should know and decide.
    #[must_use]
    pub fn retry_after_cap(self, cap: Duration) -> Self {
        self.with(|config| config.retry_after_cap = cap)
    }

    /// Writes the number of attempts into this response header. Default: the [`Attempts`](super::Attempts) extension
    /// only.
    #[must_use]
    pub fn attempts_header(self, name: HeaderName) -> Self {
        self.with(|config| config.attempts_header = Some(name))
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, Arc::clone(&self.config))
    }
}
