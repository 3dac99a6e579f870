use std::sync::Arc;
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::budget::{self, Budget};
use ha_core::config::ConfigError;
use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use tower_layer::Layer;

use super::service::Retry;
use crate::clock;

/// More attempts than this are a storm and not a retry.
const MOST_ATTEMPTS: u32 = 10;

/// What is kept is kept per request.
const MOST_KEPT: u64 = 64 * 1024 * 1024;

/// Retries HTTP requests by the rules in the [module documentation](super).
///
/// One layer has one budget: all services made from it, and their clones, share it.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    config: Arc<Config>,
}

#[derive(Debug)]
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
        let budget = Arc::new(Budget::standard(clock::now()));
        Self::from_builder(Self::builder(), budget)
    }

    /// The HTTP policy, to change its numbers.
    pub fn builder() -> Builder {
        Builder {
            attempts: 3,
            budget: Spend::Own(budget::Config::default()),
            backoff: Backoff::default(),
            idempotency_key: false,
            replay_limit: 64 * 1024,
            hold_limit: 32 * 1024,
            hold_stall: Duration::from_secs(1),
            retry_after_cap: Duration::from_secs(5),
            attempts_header: None,
        }
    }

    fn from_builder(builder: Builder, budget: Arc<Budget>) -> Self {
        Self {
            config: Arc::new(Config {
                attempts: builder.attempts,
                budget,
                backoff: builder.backoff,
                idempotency_key: builder.idempotency_key,
                replay_limit: builder.replay_limit,
                hold_limit: builder.hold_limit,
                hold_stall: builder.hold_stall,
                retry_after_cap: builder.retry_after_cap,
                attempts_header: builder.attempts_header,
            }),
        }
    }
}

/// Sets the numbers of a [`RetryLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    attempts: u32,
    budget: Spend,
    backoff: Backoff,
    idempotency_key: bool,
    replay_limit: usize,
    hold_limit: u64,
    hold_stall: Duration,
    retry_after_cap: Duration,
    attempts_header: Option<HeaderName>,
}

#[derive(Clone, Debug)]
enum Spend {
    Own(budget::Config),
    Shared(Arc<Budget>),
}

impl Builder {
    /// How often a request is sent at most, the first time included; from 1, which never retries, to 10. Default 3: the
    /// second attempt saves nearly everything that can be saved, the third covers two endpoints that die together.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The size of the layer's own budget. Default 20 % of requests plus 10 per second over 10 s.
    pub fn budget(mut self, config: budget::Config) -> Self {
        self.budget = Spend::Own(config);
        self
    }

    /// A budget shared with other layers that send to the same place, instead of one of the layer's own.
    pub fn shared_budget(mut self, budget: Arc<Budget>) -> Self {
        self.budget = Spend::Shared(budget);
        self
    }

    /// The waits between attempts. Default: full jitter from 25 ms, doubling, up to 250 ms.
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Whether a POST or PATCH with an `Idempotency-Key` may be sent again. Default false.
    ///
    /// The header promises nothing by itself. Say yes only where the server stores the outcome together with the write
    /// and answers a repeated key with it; otherwise a retry can book twice.
    pub const fn idempotency_key(mut self, honoured_by_the_server: bool) -> Self {
        self.idempotency_key = honoured_by_the_server;
        self
    }

    /// How many bytes of a request body are kept for another attempt, at most 64 MiB. Default 64 KiB; a larger body is
    /// sent once. With 0 only requests without a body are sent again.
    pub const fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// Responses of at most this many bytes, at most 64 MiB, are held until complete before their head is passed on.
    /// Default 32 KiB; 0 passes every head on at once.
    pub const fn hold_small_responses(mut self, bytes: u64) -> Self {
        self.hold_limit = bytes;
        self
    }

    /// How long a held response may bring no byte before the attempt counts as failed. Default 1 s, as long as an
    /// attempt may take to its head. One that keeps coming is held for four times as long at most, and never beyond the
    /// request's deadline; then it is passed on as it comes.
    pub const fn hold_stall(mut self, limit: Duration) -> Self {
        self.hold_stall = limit;
        self
    }

    /// The longest `Retry-After` that is waited for; a longer one ends the retries. Default 5 s: beyond that the caller
    /// should know and decide. Zero waits for none.
    pub const fn retry_after_cap(mut self, cap: Duration) -> Self {
        self.retry_after_cap = cap;
        self
    }

    /// Writes the number of attempts into this response header. Default: the [`Attempts`](super::Attempts) extension
    /// only.
    pub fn attempts_header(mut self, name: HeaderName) -> Self {
        self.attempts_header = Some(name);
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, and its value: attempts outside of 1..=10, a budget or
    /// backoff out of range, a zero `hold_stall`, waits of more than a day, more than 64 MiB per request, or an
    /// `attempts_header` that frames messages.
    pub fn build(self) -> Result<RetryLayer, ConfigError> {
        self.validate()?;
        let budget = match &self.budget {
            Spend::Own(config) => Arc::new(Budget::new(*config, clock::now())?),
            Spend::Shared(budget) => Arc::clone(budget),
        };
        Ok(RetryLayer::from_builder(self, budget))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_least_one("retry.attempts", self.attempts)?;
        if self.attempts > MOST_ATTEMPTS {
            return Err(ConfigError::new(
                "retry.attempts",
                self.attempts,
                "must be at most 10",
            ));
        }
        self.backoff.validate()?;
        kept("retry.replay_limit", self.replay_limit as u64)?;
        kept("retry.hold_small_responses", self.hold_limit)?;
        ConfigError::positive("retry.hold_stall", self.hold_stall)?;
        ConfigError::at_most_a_day("retry.hold_stall", self.hold_stall)?;
        ConfigError::at_most_a_day("retry.retry_after_cap", self.retry_after_cap)?;
        let framing = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
        if let Some(name) = &self.attempts_header
            && framing.contains(name)
        {
            return Err(ConfigError::new(
                "retry.attempts_header",
                name,
                "must not be a field that frames messages",
            ));
        }
        Ok(())
    }
}

fn kept(field: &'static str, bytes: u64) -> Result<(), ConfigError> {
    if bytes > MOST_KEPT {
        return Err(ConfigError::new(
            field,
            bytes,
            "must be at most 67108864 bytes (64 MiB) per request",
        ));
    }
    Ok(())
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, Arc::clone(&self.config))
    }
}
