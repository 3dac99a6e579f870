use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ha_core::endpoint::{Address, Endpoint, EndpointError};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::{Kind, Source};
use crate::clock;

/// Why discovery by DNS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The name is not `host:port`, or not `http://host:port`.
    #[error("dns name is refused")]
    Address(#[source] EndpointError),
    /// The scheme is one that no client here speaks.
    #[error("dns name has the scheme {scheme:?}, only \"http\" is spoken")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// There is no port. DNS addresses carry none.
    #[error("dns name {value:?} has no port")]
    NoPort {
        /// The text given.
        value: String,
    },
    /// The resolver configuration of the system cannot be used.
    #[error("the system's resolver configuration cannot be used")]
    System(#[source] NetError),
}

/// The shortest time between two lookups: a TTL of 0 must not become a flood.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest: a name with a TTL of days is still followed.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest wait while lookups fail.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// One lookup may take this long, retries of the resolver included.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Discovery by DNS: each A and AAAA record of a name is an endpoint. Made by [`dns`].
pub struct Dns {
    address: Address,
    resolver: TokioResolver,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The endpoints behind a name with a port, such as `catalog.internal:3000`, asked from the system's resolvers.
///
/// The name is asked again when its TTL is over (at least one second and at most five minutes, and up to a tenth later, so
/// that many clients do not ask in step). When a lookup fails or answers nothing, the last good set stays, and the name is asked
/// again after one second, then two, up to 30.
///
/// # Errors
/// [`DnsError`] when the text is no name with a port, or the system's resolver configuration cannot be used.
pub fn dns(name: impl AsRef<str>) -> Result<Dns, DnsError> {
    let address = parse(name.as_ref())?;
    let resolver = TokioResolver::builder_tokio().map_err(DnsError::System)?;
    Dns::with(address, resolver)
}

impl Dns {
    /// The same name, asked from this server and no other.
    ///
    /// # Errors
    /// [`DnsError::System`] when the resolver cannot be made.
    pub fn nameserver(self, server: SocketAddr) -> Result<Self, DnsError> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut one| {
            one.port = server.port();
            one
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        Self::with(
            self.address,
            TokioResolver::builder_with_config(config, provider),
        )
    }

    fn with(
        address: Address,
        mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>,
    ) -> Result<Self, DnsError> {
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // A failure must not be remembered for longer than the wait until the next lookup.
        options.negative_max_ttl = Some(SHORTEST / 2);
        let resolver = builder.build().map_err(DnsError::System)?;
        Ok(Self { address, resolver })
    }

    pub(super) fn start(self) -> Running {
        Running {
            dns: self,
            refresh: Refresh::default(),
            wait: Duration::ZERO,
        }
    }

    async fn lookup(&self) -> Result<(BTreeSet<IpAddr>, Instant), Failure> {
        let lookup = self.resolver.lookup_ip(self.address.host());
        let found = tokio::time::timeout(LOOKUP_LIMIT, lookup)
            .await
            .map_err(|_| Failure::Timeout)??;
        let ips: BTreeSet<_> = found.iter().collect();
        if ips.is_empty() {
            return Err(Failure::Empty);
        }
        Ok((ips, found.valid_until()))
    }
}

impl From<Dns> for Source {
    fn from(dns: Dns) -> Self {
        Self(Kind::Dns(Box::new(dns)))
    }
}

fn parse(text: &str) -> Result<Address, DnsError> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let address: Address = full.parse().map_err(DnsError::Address)?;
    if address.scheme() != "http" {
        return Err(DnsError::Scheme {
            scheme: address.scheme().to_owned(),
        });
    }
    let given = full
        .trim_end_matches('/')
        .ends_with(&format!(":{}", address.port()));
    if !given {
        return Err(DnsError::NoPort {
            value: text.to_owned(),
        });
    }
    Ok(address)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within {LOOKUP_LIMIT:?}")]
    Timeout,
    #[error("the answer has no address")]
    Empty,
    #[error(transparent)]
    Lookup(#[from] NetError),
}

/// A name that is being followed.
#[derive(Debug)]
pub(crate) struct Running {
    dns: Dns,
    refresh: Refresh,
    wait: Duration,
}

impl Running {
    /// The next good set. Waits until it is time to ask, and as long as lookups fail.
    pub(crate) async fn next(&mut self) -> Vec<Endpoint> {
        loop {
            tokio::time::sleep(self.wait).await;
            let found = self.dns.lookup().await;
            let random = fastrand::f64();
            match found {
                Ok((ips, valid_until)) => {
                    let ttl = valid_until.saturating_duration_since(clock::now());
                    self.wait = self.refresh.after_success(ttl, random);
                    return ips
                        .into_iter()
                        .map(|ip| Endpoint::new(self.dns.address.with_ip(ip)))
                        .collect();
                }
                Err(failure) => {
                    self.wait = self.refresh.after_failure(random);
                    let name = self.dns.address.authority();
                    tracing::warn!(name, %failure, "discovery failed, the last good set stays");
                }
            }
        }
    }
}

/// When to ask again.
#[derive(Debug, Default)]
struct Refresh {
    failures: u32,
}

impl Refresh {
    fn after_success(&mut self, ttl: Duration, random: f64) -> Duration {
        self.failures = 0;
        // Never before the TTL is over: the resolver would answer from its cache.
        ttl.clamp(SHORTEST, LONGEST).mul_f64(1.0 + 0.1 * random)
    }

    fn after_failure(&mut self, random: f64) -> Duration {
        let wait = SHORTEST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - 0.1 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_a_port_and_no_other_scheme() {
        assert_eq!(
            parse("catalog.internal:3000").unwrap().to_string(),
            "http://catalog.internal:3000"
        );
        assert_eq!(parse("http://catalog:80/").unwrap().port(), 80);
        assert!(matches!(parse("catalog"), Err(DnsError::NoPort { .. })));
        assert!(matches!(
            parse("https://catalog:1"),
            Err(DnsError::Scheme { .. })
        ));
        assert!(matches!(
            parse(":3000"),
            Err(DnsError::Address(EndpointError::NoHost { .. }))
        ));
    }

    #[test]
    fn the_ttl_is_honoured_within_its_bounds() {
        let mut refresh = Refresh::default();
        let secs = Duration::from_secs;
        for (ttl, least) in [(0, 1), (60, 60), (86_400, 300)] {
            assert_eq!(refresh.after_success(secs(ttl), 0.0), secs(least));
            assert!(refresh.after_success(secs(ttl), 1.0) <= secs(least).mul_f64(1.11));
        }
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_until_one_succeeds() {
        let mut refresh = Refresh::default();
        let waits: Vec<_> = (0..7)
            .map(|_| refresh.after_failure(0.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        refresh.after_success(SHORTEST, 0.0);
        assert_eq!(refresh.after_failure(0.0), SHORTEST);
    }
}
