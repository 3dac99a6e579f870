use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use governor::clock::{Clock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::{Quota, RateLimiter};
use ha_core::config::ConfigError;
use http::{HeaderName, Request};
use tower_layer::Layer;
use tower_service::Service;

use super::error::Remaining;
use super::gate::ShedLog;
use super::guard::GuardFuture;
use super::table::Table;
use super::{Any, Held, Http, LimitKey, Protocol, Reason, Shed};
use crate::balance::Head;
use crate::clock;
use crate::proxy::Peer;

const LONGEST_REFILL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const MOST_KEYS: usize = 1 << 24;

/// Limits how often each caller may ask: so many requests per time and key, with bursts (GCRA, through `governor`).
///
/// Memory is bounded: there is room for so many keys, 17 bytes each, taken when the layer is built. When there are more, those are forgotten
/// that have used least of their rate; someone who sends a million requests under a million keys makes nobody forgotten who
/// is being limited. Keys are kept as hashes with a secret of the layer's own, so that nobody can choose one that collides
/// with another's.
#[derive(Debug, Clone)]
pub struct RateLimitLayer<K, P = Any> {
    shared: Arc<Shared<K>>,
    protocol: P,
}

struct Shared<K> {
    name: Arc<str>,
    limiter: Limiter,
    key: K,
    hasher: RandomState,
    unkeyed: Unkeyed,
    announce: bool,
    burst: u32,
    /// Until one more request is allowed.
    period: Duration,
    forgotten: Arc<AtomicU64>,
    log: ShedLog,
}

type Limiter = RateLimiter<u64, Table, Since, StateInformationMiddleware>;

impl<K: fmt::Debug> fmt::Debug for Shared<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("burst", &self.burst)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

/// Tells the time since it was made, by the clock that the timers have too.
#[derive(Debug)]
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.0)
    }
}

/// What becomes of requests that have no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Unkeyed {
    /// They share one rate, as if all had the same key: leaving a key out is no way around the limit.
    #[default]
    Shared,
    /// They are not limited.
    Free,
}

/// Which key a request counts for.
pub trait KeyOf<Req> {
    /// The hash of the key, if the request has one.
    fn key_of(&self, request: &Req, hasher: &RandomState) -> Option<u64>;
}

/// Where an HTTP request has its key. A [`LimitKey`] extension wins over each.
#[derive(Debug, Clone)]
pub struct HttpKey(Source);

#[derive(Clone)]
enum Source {
    Extension,
    Header(HeaderName),
    Peer,
    With(Arc<dyn Fn(Head<'_>) -> Option<LimitKey> + Send + Sync>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extension => f.write_str("Extension"),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Peer => f.write_str("Peer"),
            Self::With(_) => f.write_str("With"),
        }
    }
}

impl HttpKey {
    /// The [`LimitKey`] extension only.
    #[must_use]
    pub const fn extension() -> Self {
        Self(Source::Extension)
    }

    /// The value of this header field, the first when there are several. Whoever chooses it freely is not limited: use it for
    /// what has been authenticated.
    #[must_use]
    pub const fn header(name: HeaderName) -> Self {
        Self(Source::Header(name))
    }

    /// The IP address at the other end of the connection: the [`Peer`] extension. Of an IPv6 address the first 64 bits count,
    /// because one customer usually has them all. Behind another proxy this is the proxy.
    #[must_use]
    pub const fn peer() -> Self {
        Self(Source::Peer)
    }

    /// What this says.
    pub fn with(key: impl Fn(Head<'_>) -> Option<LimitKey> + Send + Sync + 'static) -> Self {
        Self(Source::With(Arc::new(key)))
    }
}

impl<B> KeyOf<Request<B>> for HttpKey {
    fn key_of(&self, request: &Request<B>, hasher: &RandomState) -> Option<u64> {
        if let Some(key) = request.extensions().get::<LimitKey>() {
            return Some(hasher.hash_one(key.as_str().as_bytes()));
        }
        match &self.0 {
            Source::Extension => None,
            Source::Header(name) => Some(hasher.hash_one(request.headers().get(name)?.as_bytes())),
            Source::Peer => {
                let Peer(peer) = request.extensions().get()?;
                Some(match peer.ip().to_canonical() {
                    IpAddr::V4(ip) => hasher.hash_one(ip),
                    IpAddr::V6(ip) => hasher.hash_one(ip.to_bits() >> 64),
                })
            }
            Source::With(key) => {
                let key = key(Head {
                    method: request.method(),
                    uri: request.uri(),
                    headers: request.headers(),
                    extensions: request.extensions(),
                })?;
                Some(hasher.hash_one(key.as_str().as_bytes()))
            }
        }
    }
}

/// A key that a function says, for requests of any kind. Made by [`RateBuilder::key_by`].
pub struct KeyBy<F, K> {
    key: F,
    kind: PhantomData<fn() -> K>,
}

impl<F, K> fmt::Debug for KeyBy<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBy").finish_non_exhaustive()
    }
}

impl<Req, F: Fn(&Req) -> Option<K>, K: Hash> KeyOf<Req> for KeyBy<F, K> {
    fn key_of(&self, request: &Req, hasher: &RandomState) -> Option<u64> {
        (self.key)(request).map(|key| hasher.hash_one(key))
    }
}

impl<K, P> RateLimitLayer<K, P> {
    /// How many keys were forgotten before their rate was whole again, because there was no room: then there should be
    /// [more](RateBuilder::keys).
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.shared.forgotten.load(Ordering::Relaxed)
    }
}

impl RateLimitLayer<HttpKey, Http> {
    /// So many requests `per` time and key, in the HTTP form: 429 with `Retry-After`. The key is the [`LimitKey`] extension, or else
    /// [`HttpKey::peer`].
    pub fn http(requests: u32, per: Duration) -> RateBuilder<HttpKey, Http> {
        RateBuilder::new(requests, per, HttpKey::peer(), Http::new())
    }
}

impl RateLimitLayer<(), Any> {
    /// So many requests `per` time and key, in the generic form: refusals are errors. Say the key with
    /// [`key_by`](RateBuilder::key_by).
    pub fn builder(requests: u32, per: Duration) -> RateBuilder<(), Any> {
        RateBuilder::new(requests, per, (), Any)
    }
}

/// Sets up a [`RateLimitLayer`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before build()"]
pub struct RateBuilder<K, P> {
    requests: u32,
    per: Duration,
    burst: Option<u32>,
    keys: usize,
    unkeyed: Unkeyed,
    announce: bool,
    name: Arc<str>,
    key: K,
    protocol: P,
}

impl<K, P> RateBuilder<K, P> {
    fn new(requests: u32, per: Duration, key: K, protocol: P) -> Self {
        Self {
            requests,
            per,
            burst: None,
            keys: 65_536,
            unkeyed: Unkeyed::Shared,
            announce: false,
            name: Arc::from("rate"),
            key,
            protocol,
        }
    }

    /// How many requests may come at once, after a pause. Default: as many as are allowed per time.
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    /// For how many keys there is room, from 1 to 16,777,216; rounded up to a power of two of at least 8. Default 65,536, which takes 1.1 MB.
    pub const fn keys(mut self, keys: usize) -> Self {
        self.keys = keys;
        self
    }

    /// What becomes of requests without a key. Default [`Unkeyed::Shared`].
    pub const fn unkeyed(mut self, unkeyed: Unkeyed) -> Self {
        self.unkeyed = unkeyed;
        self
    }

    /// Whether answers say what is left, in the fields `RateLimit` and `RateLimit-Policy` (IETF draft "RateLimit header fields for
    /// HTTP"); in the HTTP form only. Default false.
    pub const fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// The name in metrics and logs. Default `rate`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// What requests and answers are: [`Any`], [`Http`] or one of yours.
    pub fn protocol<Q>(self, protocol: Q) -> RateBuilder<K, Q> {
        let (builder, _, key) = self.apart();
        builder.with(key, protocol)
    }

    /// Where a request has its key.
    pub fn key<L>(self, key: L) -> RateBuilder<L, P> {
        let (builder, protocol, _) = self.apart();
        builder.with(key, protocol)
    }

    /// The key is what this function says.
    pub fn key_by<Req, F, L>(self, key: F) -> RateBuilder<KeyBy<F, L>, P>
    where
        F: Fn(&Req) -> Option<L>,
        L: Hash,
    {
        self.key(KeyBy {
            key,
            kind: PhantomData,
        })
    }

    fn apart(self) -> (RateBuilder<(), ()>, P, K) {
        let builder = RateBuilder {
            requests: self.requests,
            per: self.per,
            burst: self.burst,
            keys: self.keys,
            unkeyed: self.unkeyed,
            announce: self.announce,
            name: self.name,
            key: (),
            protocol: (),
        };
        (builder, self.protocol, self.key)
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that makes no sense, and its value.
    pub fn build(self) -> Result<RateLimitLayer<K, P>, ConfigError> {
        ConfigError::at_least_one("rate.requests", self.requests)?;
        ConfigError::positive("rate.per", self.per)?;
        ConfigError::at_most_a_day("rate.per", self.per)?;
        let burst = self.burst.unwrap_or(self.requests);
        let period = self.per / self.requests;
        let per = format_args!("{:?}", self.per);
        let (Some(most), Some(quota)) = (NonZeroU32::new(burst), Quota::with_period(period)) else {
            return Err(if burst == 0 {
                ConfigError::new("rate.burst", burst, "must be at least 1")
            } else {
                ConfigError::new("rate.per", per, "must be at least 1ns per request")
            });
        };
        if period.saturating_mul(burst) > LONGEST_REFILL {
            let reason = "must be whole again within a week";
            return Err(ConfigError::new("rate.burst", burst, reason));
        }
        if !(1..=MOST_KEYS).contains(&self.keys) {
            let reason = "must be from 1 to 16777216";
            return Err(ConfigError::new("rate.keys", self.keys, reason));
        }
        let quota = quota.allow_burst(most);
        let forgotten = Arc::new(AtomicU64::new(0));
        let table = Table::new(self.keys, period, Arc::clone(&forgotten));
        let limiter = Limiter::new(quota, table, Since(clock::now()));
        Ok(RateLimitLayer {
            shared: Arc::new(Shared {
                name: self.name,
                limiter,
                key: self.key,
                hasher: RandomState::new(),
                unkeyed: self.unkeyed,
                announce: self.announce,
                burst,
                period,
                forgotten,
                log: ShedLog::new(),
            }),
            protocol: self.protocol,
        })
    }
}

impl RateBuilder<(), ()> {
    fn with<K, P>(self, key: K, protocol: P) -> RateBuilder<K, P> {
        RateBuilder {
            requests: self.requests,
            per: self.per,
            burst: self.burst,
            keys: self.keys,
            unkeyed: self.unkeyed,
            announce: self.announce,
            name: self.name,
            key,
            protocol,
        }
    }
}

impl<K> Shared<K> {
    /// What is left, or for how long there is nothing.
    fn check(&self, key: u64) -> Result<Remaining, (Duration, Remaining)> {
        match self.limiter.check_key(&key) {
            Ok(state) => Ok(self.remaining(state.remaining_burst_capacity())),
            Err(not_until) => {
                let now = self.limiter.clock().now();
                let wait = not_until.earliest_possible().duration_since(now);
                Err((wait.into(), self.remaining(0)))
            }
        }
    }

    fn remaining(&self, left: u32) -> Remaining {
        Remaining {
            burst: self.burst,
            window: self.period.saturating_mul(self.burst),
            left,
            whole_in: self.period.saturating_mul(self.burst.saturating_sub(left)),
        }
    }
}

impl<S, K, P: Clone> Layer<S> for RateLimitLayer<K, P> {
    type Service = RateLimit<S, K, P>;

    fn layer(&self, inner: S) -> RateLimit<S, K, P> {
        RateLimit {
            inner,
            shared: Arc::clone(&self.shared),
            protocol: self.protocol.clone(),
        }
    }
}

/// A service behind a rate limit. Made by [`RateLimitLayer`].
#[derive(Debug)]
pub struct RateLimit<S, K, P = Any> {
    inner: S,
    shared: Arc<Shared<K>>,
    protocol: P,
}

impl<S: Clone, K, P: Clone> Clone for RateLimit<S, K, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            protocol: self.protocol.clone(),
        }
    }
}

impl<S, K, P, R> Service<R> for RateLimit<S, K, P>
where
    S: Service<R>,
    K: KeyOf<R>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = GuardFuture<S::Future, R, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| self.protocol.unready(error))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let shared = &self.shared;
        let protocol = self.protocol.clone();
        let key = match (shared.key.key_of(&request, &shared.hasher), shared.unkeyed) {
            (Some(key), _) => key,
            (None, Unkeyed::Shared) => 0,
            (None, Unkeyed::Free) => {
                let future = self.inner.call(request);
                return GuardFuture::calling(future, Held::nothing(), protocol);
            }
        };
        match shared.check(key) {
            Ok(remaining) => {
                let held = if shared.announce {
                    Held::quota_left(remaining)
                } else {
                    Held::nothing()
                };
                GuardFuture::calling(self.inner.call(request), held, protocol)
            }
            Err((wait, remaining)) => {
                let priority = protocol.priority(&request);
                shared.log.shed(&shared.name, Reason::Rate, priority);
                let mut shed = Shed::new(Reason::Rate, priority);
                shed.retry_after = Some(wait);
                shed.quota = shared.announce.then_some(remaining);
                GuardFuture::refused(shed, protocol)
            }
        }
    }
}
