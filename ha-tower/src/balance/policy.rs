use ha_core::config::ConfigError;
use ha_core::endpoint::{EndpointKey, Weight};
use ha_core::hash::{self, Bound, Candidates};
use ha_core::pick::{Draw, Schedule};

use super::HashKey;

/// How an endpoint is picked. Made from [`P2c`], [`RoundRobin`], [`Random`], [`RingHash`], [`Maglev`] or [`Rendezvous`].
#[derive(Debug, Clone, Default)]
pub struct Policy(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    Hash(Algorithm, HashKey, Option<f64>),
}

#[derive(Debug, Clone)]
enum Algorithm {
    Ring(hash::RingConfig),
    Maglev(hash::MaglevConfig),
    Rendezvous,
}

/// Power of two choices: two candidates are drawn at random by weight, and the better one is taken. Costs the same
/// with two endpoints and with ten thousand, and does not send a herd to the one that looks best at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct P2c {
    by_latency: bool,
}

impl P2c {
    /// The better one has the lower `latency estimate · (in flight + 1) + penalty for failures`.
    #[must_use]
    pub const fn peak_ewma() -> Self {
        Self { by_latency: true }
    }

    /// The better one has fewer requests in flight, failures count as in [`peak_ewma`](Self::peak_ewma).
    #[must_use]
    pub const fn least_request() -> Self {
        Self { by_latency: false }
    }
}

impl From<P2c> for Policy {
    fn from(p2c: P2c) -> Self {
        Self(if p2c.by_latency {
            Kind::PeakEwma
        } else {
            Kind::LeastRequest
        })
    }
}

/// Each in turn, as often as its weight says. Blind for load and latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundRobin;

impl From<RoundRobin> for Policy {
    fn from(_: RoundRobin) -> Self {
        Self(Kind::RoundRobin)
    }
}

/// Any, as often as its weight says. Blind for load and latency; unlike [`RoundRobin`] nothing is shared between picks, and many
/// callers never fall into step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Random;

impl From<Random> for Policy {
    fn from(_: Random) -> Self {
        Self(Kind::Random)
    }
}

/// The settings that all hashed policies have.
macro_rules! hashed {
    ($policy:ident, $algorithm:expr) => {
        impl $policy {
            /// By this key, with bounded load ([`Bound::DEFAULT_FACTOR`], 1.25).
            #[must_use]
            pub fn new(key: HashKey) -> Self {
                Self {
                    key,
                    factor: Some(Bound::DEFAULT_FACTOR),
                    algorithm: $algorithm,
                }
            }

            /// No endpoint has more than this many times its share of the requests in flight; what is above goes to the
            /// next choice of the key. Default 1.25; at least 1, else [`build`](super::Builder::build) refuses it.
            #[must_use]
            pub fn bounded(mut self, factor: f64) -> Self {
                self.factor = Some(factor);
                self
            }

            /// Sends a key to its endpoint however much that one has to do.
            #[must_use]
            pub fn unbounded(mut self) -> Self {
                self.factor = None;
                self
            }
        }

        impl From<$policy> for Policy {
            fn from(policy: $policy) -> Self {
                Self(Kind::Hash(policy.algorithm, policy.key, policy.factor))
            }
        }
    };
}

/// The same key to the same endpoint by a ring of hashes: when an endpoint comes or goes, only its own keys move. See
/// [`ha_core::hash`] for how the three compare.
#[derive(Debug, Clone)]
pub struct RingHash {
    key: HashKey,
    factor: Option<f64>,
    algorithm: Algorithm,
}

hashed!(RingHash, Algorithm::Ring(hash::RingConfig::default()));

impl RingHash {
    /// The size of the ring. Default [`RingConfig::default`](hash::RingConfig).
    #[must_use]
    pub fn ring(mut self, config: hash::RingConfig) -> Self {
        self.algorithm = Algorithm::Ring(config);
        self
    }
}

/// The same key to the same endpoint by a Maglev table: the quickest look-up and the most even shares, and up to 1 % of all keys
/// move beside those that must.
#[derive(Debug, Clone)]
pub struct Maglev {
    key: HashKey,
    factor: Option<f64>,
    algorithm: Algorithm,
}

hashed!(Maglev, Algorithm::Maglev(hash::MaglevConfig::default()));

impl Maglev {
    /// The size of the table. Default [`MaglevConfig::default`](hash::MaglevConfig).
    #[must_use]
    pub fn table(mut self, config: hash::MaglevConfig) -> Self {
        self.algorithm = Algorithm::Maglev(config);
        self
    }
}

/// The same key to the same endpoint by the highest score: exact shares and the fewest keys moved, but a pick looks at every
/// endpoint. For some tens of them.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    key: HashKey,
    factor: Option<f64>,
    algorithm: Algorithm,
}

hashed!(Rendezvous, Algorithm::Rendezvous);

impl Policy {
    /// The key that decides, if one does.
    pub(super) fn key(&self) -> Option<&HashKey> {
        match &self.0 {
            Kind::Hash(_, key, _) => Some(key),
            _ => None,
        }
    }

    pub(super) fn looks_at_latency(&self) -> bool {
        matches!(self.0, Kind::PeakEwma)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let Kind::Hash(algorithm, key, factor) = &self.0 else {
            return Ok(());
        };
        key.validate()?;
        if let Some(factor) = factor {
            Bound::new(*factor, [])?;
        }
        match algorithm {
            Algorithm::Ring(config) => config.validate(),
            Algorithm::Maglev(config) => config.validate(),
            Algorithm::Rendezvous => Ok(()),
        }
    }

    /// What picks among endpoints with these keys and weights.
    pub(super) fn table<'a>(
        &self,
        endpoints: impl Iterator<Item = (&'a EndpointKey, Weight)> + Clone,
    ) -> Result<Table, ConfigError> {
        let weights = endpoints.clone().map(|(_, weight)| weight);
        Ok(match &self.0 {
            Kind::PeakEwma => Table::PeakEwma(Draw::new(weights)),
            Kind::LeastRequest => Table::LeastRequest(Draw::new(weights)),
            Kind::Random => Table::Random(Draw::new(weights)),
            Kind::RoundRobin => Table::RoundRobin(Schedule::new(weights)),
            Kind::Hash(algorithm, _, factor) => Table::Hashed {
                hashes: match algorithm {
                    Algorithm::Ring(config) => Hashes::Ring(hash::Ring::new(config, endpoints)?),
                    Algorithm::Maglev(config) => {
                        Hashes::Maglev(hash::Maglev::new(config, endpoints)?)
                    }
                    Algorithm::Rendezvous => Hashes::Rendezvous(hash::Rendezvous::new(endpoints)?),
                },
                bound: factor
                    .map(|factor| Bound::new(factor, weights))
                    .transpose()?,
            },
        })
    }
}

/// A policy for one set of endpoints. What it says are positions in that set.
#[derive(Debug)]
pub(super) enum Table {
    PeakEwma(Draw),
    LeastRequest(Draw),
    Random(Draw),
    RoundRobin(Schedule),
    Hashed {
        hashes: Hashes,
        bound: Option<Bound>,
    },
}

#[derive(Debug)]
pub(super) enum Hashes {
    Ring(hash::Ring),
    Maglev(hash::Maglev),
    Rendezvous(hash::Rendezvous),
}

impl Hashes {
    #[inline]
    pub(super) fn pick(&self, hash: u64) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.pick(hash),
            Self::Maglev(maglev) => maglev.pick(hash),
            Self::Rendezvous(rendezvous) => rendezvous.pick(hash),
        }
    }

    pub(super) fn candidates(&self, hash: u64) -> Candidates<'_> {
        match self {
            Self::Ring(ring) => ring.candidates(hash),
            Self::Maglev(maglev) => maglev.candidates(hash),
            Self::Rendezvous(rendezvous) => rendezvous.candidates(hash),
        }
    }
}
