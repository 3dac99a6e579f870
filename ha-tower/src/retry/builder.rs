use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ha_core::backoff::Backoff;
use ha_core::budget::{self, Budget};
use ha_core::config::ConfigError;
use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;

use super::grpc::Codes;
use super::layer::{Config, MOST_ATTEMPTS, RetryLayer};
use super::policy::{Matcher, Protocol, Rules};
use super::terms::Terms;
use crate::clock;

/// What is kept is kept per request.
const MOST_KEPT: u64 = 64 * 1024 * 1024;

/// Sets the numbers of a [`RetryLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    name: Cow<'static, str>,
    attempts: u32,
    attempt_timeout: Option<Duration>,
    budget: Spend,
    counts_requests: bool,
    backoff: Backoff,
    rules: Rules,
    codes: Option<Vec<i32>>,
    replay_limit: usize,
    hold_limit: u64,
    hold_stall: Duration,
    cap: Duration,
    attempts_header: Option<HeaderName>,
}

/// Where the retries are taken from.
#[derive(Clone, Debug)]
pub(super) enum Spend {
    Own(budget::Config),
    Shared(Arc<Budget>),
}

impl Default for Spend {
    fn default() -> Self {
        Self::Own(budget::Config::default())
    }
}

impl Spend {
    pub(super) fn budget(&self) -> Result<Arc<Budget>, ConfigError> {
        Ok(match self {
            Self::Own(config) => Arc::new(Budget::new(*config, clock::now())?),
            Self::Shared(budget) => Arc::clone(budget),
        })
    }
}

impl Builder {
    pub(super) fn http() -> Self {
        Self::new("http", Protocol::Http)
    }

    pub(super) fn grpc() -> Self {
        Self::new("grpc", Protocol::Grpc(Codes::default()))
    }

    fn new(name: &'static str, protocol: Protocol) -> Self {
        Self {
            name: Cow::Borrowed(name),
            attempts: 3,
            attempt_timeout: None,
            budget: Spend::default(),
            counts_requests: true,
            backoff: Backoff::default(),
            rules: Rules {
                protocol,
                idempotency_key: false,
                idempotent: None,
            },
            codes: None,
            replay_limit: 64 * 1024,
            hold_limit: 32 * 1024,
            hold_stall: Duration::from_secs(1),
            cap: Duration::from_secs(5),
            attempts_header: None,
        }
    }

    /// The name of this layer in metrics and events. Default `http` or `grpc`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How often a request is sent at most, the first time included; from 1, which never retries, to 10. Default 3: the
    /// second attempt saves nearly everything that can be saved, the third covers two endpoints that die together.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long one attempt may take to its response head. Default: no limit of the layer's own.
    ///
    /// Leave it out around an [`Upstream`](crate::upstream::Upstream): that has an attempt timeout inside its breaker and its
    /// load, which learn from it that an endpoint is slow; one that fires out here looks to them as if the caller had gone
    /// away. Set it around a client that has none. A late attempt is dropped and counts as a failed exchange: the application
    /// may have acted on it, so that only what is idempotent is sent again. The last one that is late is answered with 504,
    /// or with `DEADLINE_EXCEEDED` in gRPC, as an answer of this process.
    pub const fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = Some(limit);
        self
    }

    /// The size of the layer's own budget. Default 20 % of requests plus 10 per second over 10 s.
    pub fn budget(mut self, config: budget::Config) -> Self {
        self.budget = Spend::Own(config);
        self
    }

    /// A budget shared with other layers that send to the same place, hedges among them, instead of one of the layer's own.
    pub fn shared_budget(mut self, budget: Arc<Budget>) -> Self {
        self.budget = Spend::Shared(budget);
        self
    }

    /// Whether this layer counts the requests that pay for retries. Default true. Say no to all but the outermost of the
    /// layers that one request passes with one [shared budget](Self::shared_budget): counted twice, it would pay twice.
    pub const fn counts_requests(mut self, counts: bool) -> Self {
        self.counts_requests = counts;
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
        self.rules.idempotency_key = honoured_by_the_server;
        self
    }

    /// Declares requests that may be sent again after any failure, beside those that HTTP says are idempotent. In gRPC, where
    /// every call is a POST, nothing else makes one so. Default none.
    ///
    /// An [`Override`](super::Override) in a request's extensions has the last word.
    ///
    /// ```
    /// use ha_tower::retry::RetryLayer;
    ///
    /// let reads = ["/shop.Catalog/Get", "/shop.Catalog/List"];
    /// let layer = RetryLayer::grpc_builder()
    ///     .idempotent(move |call| reads.contains(&call.uri.path()))
    ///     .build()?;
    /// # Ok::<_, ha_core::config::ConfigError>(())
    /// ```
    pub fn idempotent(mut self, matches: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.rules.idempotent = Some(Matcher::new(matches));
        self
    }

    /// The gRPC statuses after which a call is made again, by number; a `tonic::Code` is one. Default `UNAVAILABLE` (14).
    ///
    /// `RESOURCE_EXHAUSTED` (8) never needs to be named: it is tried again where the server says when, and only there.
    pub fn codes(mut self, codes: impl IntoIterator<Item = impl Into<i32>>) -> Self {
        self.codes = Some(codes.into_iter().map(Into::into).collect());
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
    /// request's deadline; then it is passed on as it comes. An answer in gRPC that does not tell its length is held no longer
    /// than this, and then passed on.
    pub const fn hold_stall(mut self, limit: Duration) -> Self {
        self.hold_stall = limit;
        self
    }

    /// The longest `Retry-After` or push-back that is waited for; a longer one ends the retries. Default 5 s: beyond that
    /// the caller should know and decide. Zero waits for none.
    pub const fn retry_after_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
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
    /// backoff out of range, a zero `attempt_timeout` or `hold_stall`, waits of more than a day, more than 64 MiB per
    /// request, `codes` that are no errors or not for gRPC, or an `attempts_header` that frames
    /// messages.
    pub fn build(mut self) -> Result<RetryLayer, ConfigError> {
        attempts(self.attempts)?;
        self.backoff.validate()?;
        kept("retry.replay_limit", self.replay_limit as u64)?;
        kept("retry.hold_small_responses", self.hold_limit)?;
        ConfigError::positive("retry.hold_stall", self.hold_stall)?;
        ConfigError::at_most_a_day("retry.hold_stall", self.hold_stall)?;
        ConfigError::at_most_a_day("retry.retry_after_cap", self.cap)?;
        if let Some(limit) = self.attempt_timeout {
            ConfigError::positive("retry.attempt_timeout", limit)?;
            ConfigError::at_most_a_day("retry.attempt_timeout", limit)?;
        }
        if let Some(name) = &self.attempts_header {
            response_header(name)?;
        }
        if let Some(codes) = self.codes.take() {
            if self.rules.protocol == Protocol::Http {
                let must = "must be left out without gRPC";
                return Err(ConfigError::new(
                    "retry.codes",
                    format_args!("{codes:?}"),
                    must,
                ));
            }
            self.rules.protocol = Protocol::Grpc(Codes::new(codes)?);
        }
        let budget = self.budget.budget()?;
        Ok(self.into_layer(budget))
    }

    pub(super) fn into_layer(self, budget: Arc<Budget>) -> RetryLayer {
        RetryLayer::new(Config {
            terms: Terms {
                name: self.name,
                budget,
                counts_requests: self.counts_requests,
                backoff: self.backoff,
                cap: self.cap,
            },
            rules: self.rules,
            attempts: self.attempts,
            attempt_timeout: self.attempt_timeout,
            replay_limit: self.replay_limit,
            hold_limit: self.hold_limit,
            hold_stall: self.hold_stall,
            attempts_header: self.attempts_header,
        })
    }
}

pub(super) fn attempts(attempts: u32) -> Result<(), ConfigError> {
    ConfigError::at_least_one("retry.attempts", attempts)?;
    if attempts > MOST_ATTEMPTS {
        return Err(ConfigError::new(
            "retry.attempts",
            attempts,
            "must be at most 10",
        ));
    }
    Ok(())
}

fn response_header(name: &HeaderName) -> Result<(), ConfigError> {
    let framing = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    if framing.contains(name) {
        let must = "must not be a field that frames messages";
        return Err(ConfigError::new("retry.attempts_header", name, must));
    }
    Ok(())
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
