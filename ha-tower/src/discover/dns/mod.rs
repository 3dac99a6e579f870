mod lookup;
mod refresh;
mod srv;

pub use lookup::LookupError;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::stream;
use ha_core::config::ConfigError;
use ha_core::endpoint::{Address, Endpoint, EndpointError};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::rr::Name;

use self::lookup::{Lookups, Servers};
use self::refresh::Refresh;
use super::{Error, Source};
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
    /// There is no port. Addresses in DNS carry none.
    #[error("dns name {value:?} has no port")]
    NoPort {
        /// The text given.
        value: String,
    },
    /// There is a port or a scheme, and SRV records bring the port themselves.
    #[error("srv name {value:?} is more than a name; the records bring the port")]
    NotOnlyName {
        /// The text given.
        value: String,
    },
    /// The text cannot be a name in DNS.
    #[error("{value:?} is no dns name")]
    Name {
        /// The text given.
        value: String,
        /// What is wrong with it.
        #[source]
        source: ProtoError,
    },
    /// A setting makes no sense.
    #[error("a setting of dns discovery makes no sense")]
    Config(#[source] ConfigError),
    /// The resolver configuration of the system cannot be used.
    #[error("the system's resolver configuration cannot be used")]
    System(#[source] NetError),
}

/// Discovery by DNS. Made by [`dns`] and [`srv`].
#[derive(Clone)]
pub struct Dns {
    question: Question,
    servers: Servers,
    shortest: Duration,
    longest: Duration,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum Question {
    /// Every address of a name, with the port given.
    Addresses(Address),
    /// Every address of every target, with the port of the record.
    Services(Name),
}

impl Question {
    fn name(&self) -> String {
        match self {
            Self::Addresses(address) => address.host().to_owned(),
            Self::Services(name) => name.to_utf8(),
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("question", &self.question)
            .field("shortest", &self.shortest)
            .field("longest", &self.longest)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The endpoints behind a name with a port, such as `catalog.internal:3000`: each A and AAAA record is one.
///
/// ```no_run
/// use std::time::Duration;
/// use ha_tower::discover;
///
/// let source = discover::dns("catalog.internal:3000")?
///     .refresh_between(Duration::from_secs(5), Duration::from_secs(60))?;
/// # drop(source);
/// # Ok::<(), discover::DnsError>(())
/// ```
///
/// The system's resolvers are asked, and its hosts file is. The name is asked again when its TTL is over, but no earlier than
/// [`refresh_between`](Dns::refresh_between) allows, and up to a tenth later, so that many clients do not ask in step. While
/// lookups fail or answer nothing, the last good set stays, and the name is asked after one second, then two, up to 30. A and
/// AAAA are two questions: when one of them fails and the other is answered, the addresses that the failed one brought before stay.
///
/// # Errors
/// [`DnsError`] when the text is no name with a port, or the system's resolver configuration cannot be used.
pub fn dns(name: impl AsRef<str>) -> Result<Dns, DnsError> {
    Dns::asking(Question::Addresses(parse_host_port(name.as_ref())?))
}

/// The endpoints that the SRV records of a name announce, such as `_http._tcp.catalog.internal`.
///
/// ```no_run
/// use ha_tower::discover;
///
/// let source = discover::srv("_http._tcp.catalog.internal")?;
/// # drop(source);
/// # Ok::<(), discover::DnsError>(())
/// ```
///
/// Each address of each target is an endpoint, with port, weight and priority of the record (RFC 2782):
/// - A *weight* is the target's; several addresses of one target have it each. When all weights of a priority are 0, which is what
///   servers say that know no weights, each counts as 1. Beside others, 0 means no picks: that is how operators drain a target.
/// - *Priorities* keep their numbers as long as all of them are below 256; else they are ranked, from 0.
/// - Records that lead to the same address and port are one endpoint: the best priority counts, and weights of that priority add up.
/// - A target whose lookup fails keeps the addresses it had, and the failure is an [`Event::Failed`](super::Event::Failed).
///
/// Times and failures are as with [`dns`]; the shortest TTL of the records and of the addresses counts.
///
/// # Errors
/// [`DnsError`] when the text is no name, or the system's resolver configuration cannot be used.
pub fn srv(name: impl AsRef<str>) -> Result<Dns, DnsError> {
    let value = name.as_ref();
    if value.contains([':', '/']) {
        return Err(DnsError::NotOnlyName {
            value: value.to_owned(),
        });
    }
    Dns::asking(Question::Services(parse_name(value)?))
}

impl Dns {
    fn asking(question: Question) -> Result<Self, DnsError> {
        Ok(Self {
            question,
            servers: Servers::system()?,
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            timeout: Duration::from_secs(10),
        })
    }

    /// The same name, asked from this server and no other.
    pub fn nameserver(mut self, server: SocketAddr) -> Self {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut one| {
            one.port = server.port();
            one
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        self.servers = Servers::these(ResolverConfig::from_parts(None, Vec::new(), vec![server]));
        self
    }

    /// The bounds of the time between two lookups, whatever the TTL. Default 1 s, so that a TTL of 0 is no flood, and 300 s, so
    /// that a name with a TTL of days is still followed.
    ///
    /// # Errors
    /// [`DnsError::Config`] when one is zero or longer than a day, or the shortest is above the longest.
    pub fn refresh_between(
        mut self,
        shortest: Duration,
        longest: Duration,
    ) -> Result<Self, DnsError> {
        sensible("refresh.shortest", shortest)?;
        sensible("refresh.longest", longest)?;
        if shortest > longest {
            let reason = "must be at least refresh.shortest";
            let value = format_args!("{longest:?}");
            let refused = ConfigError::new("refresh.longest", value, reason);
            return Err(DnsError::Config(refused));
        }
        (self.shortest, self.longest) = (shortest, longest);
        Ok(self)
    }

    /// How long one question may take, repetitions at other servers included. Default 10 s: two servers with 5 s each.
    ///
    /// # Errors
    /// [`DnsError::Config`] when it is zero or longer than a day.
    pub fn timeout(mut self, limit: Duration) -> Result<Self, DnsError> {
        sensible("timeout", limit)?;
        self.timeout = limit;
        Ok(self)
    }
}

fn sensible(field: &'static str, value: Duration) -> Result<(), DnsError> {
    ConfigError::positive(field, value)
        .and_then(|()| ConfigError::at_most_a_day(field, value))
        .map_err(DnsError::Config)
}

impl From<Dns> for Source {
    fn from(dns: Dns) -> Self {
        let refresh = Refresh::new(dns.shortest, dns.longest);
        let following = Following {
            dns,
            refresh,
            lookups: None,
            wait: Duration::ZERO,
            found: VecDeque::new(),
        };
        Self::new(stream::unfold(following, |mut following| async move {
            let item = following.next().await;
            Some((item, following))
        }))
    }
}

fn parse_host_port(text: &str) -> Result<Address, DnsError> {
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
    if address.host().parse::<std::net::IpAddr>().is_err() {
        parse_name(address.host())?;
    }
    Ok(address)
}

fn parse_name(text: &str) -> Result<Name, DnsError> {
    let refused = |source| DnsError::Name {
        value: text.to_owned(),
        source,
    };
    if text.is_empty() {
        return Err(refused(ProtoError::from("it is empty")));
    }
    Name::from_utf8(text).map_err(refused)
}

/// What one round of questions brought. A failure beside a set is that of a part.
struct Round {
    endpoints: Vec<Endpoint>,
    valid_until: Instant,
    failures: Vec<LookupError>,
}

/// A name that is being followed.
struct Following {
    dns: Dns,
    refresh: Refresh,
    lookups: Option<Lookups>,
    wait: Duration,
    found: VecDeque<Result<Vec<Endpoint>, Error>>,
}

impl Following {
    async fn next(&mut self) -> Result<Vec<Endpoint>, Error> {
        loop {
            if let Some(item) = self.found.pop_front() {
                return item;
            }
            tokio::time::sleep(self.wait).await;
            let random = fastrand::f64();
            match self.ask().await {
                Ok(round) => {
                    let ttl = round.valid_until.saturating_duration_since(clock::now());
                    self.wait = self.refresh.after_success(ttl, random);
                    let failures = round.failures.into_iter();
                    self.found
                        .extend(failures.map(|failure| Err(Error::Dns(failure))));
                    self.found.push_back(Ok(round.endpoints));
                }
                Err(failure) => {
                    self.wait = self.refresh.after_failure(random);
                    self.found.push_back(Err(Error::Dns(failure)));
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Round, LookupError> {
        let lookups = match &mut self.lookups {
            Some(lookups) => lookups,
            none => {
                let made = Lookups::new(&self.dns.servers, self.dns.shortest, self.dns.timeout);
                none.insert(made.map_err(|source| LookupError::Failed {
                    name: self.dns.question.name(),
                    source,
                })?)
            }
        };
        match &self.dns.question {
            Question::Addresses(address) => addresses(lookups, address).await,
            Question::Services(name) => srv::ask(lookups, name).await,
        }
    }
}

async fn addresses(lookups: &mut Lookups, address: &Address) -> Result<Round, LookupError> {
    let found = lookups.one(address.host()).await?;
    let endpoints = found.ips.into_iter().map(|ip| address.with_ip(ip));
    Ok(Round {
        endpoints: endpoints.map(Endpoint::new).collect(),
        valid_until: found.valid_until,
        failures: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_a_port_and_no_other_scheme() {
        let parse = parse_host_port;
        assert_eq!(
            parse("catalog.internal:3000").unwrap().to_string(),
            "http://catalog.internal:3000"
        );
        assert_eq!(parse("http://catalog:80/").unwrap().port(), 80);
        assert!(parse("[::1]:3000").is_ok());
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
    fn what_cannot_be_a_name_is_refused_with_the_text() {
        let long = format!("{}:80", "x".repeat(64));
        for text in ["a..b:80", &long] {
            let error = parse_host_port(text).unwrap_err();
            assert!(matches!(error, DnsError::Name { .. }), "{text}: {error:?}");
            assert!(error.to_string().contains(text.trim_end_matches(":80")));
        }
        for text in ["", "_http..tcp", &"x".repeat(64)] {
            let error = srv(text).unwrap_err();
            assert!(matches!(error, DnsError::Name { .. }), "{text}: {error:?}");
        }
        for text in ["_http._tcp.a:80", "http://a"] {
            let error = srv(text).unwrap_err();
            assert!(matches!(error, DnsError::NotOnlyName { .. }), "{error:?}");
        }
    }

    #[test]
    fn times_that_make_no_sense_are_refused_by_name_and_value() {
        let dns = || dns("a:80").unwrap();
        let second = Duration::from_secs(1);
        let inner = |error: DnsError| std::error::Error::source(&error).unwrap().to_string();
        let error = dns().refresh_between(Duration::ZERO, second).unwrap_err();
        assert!(inner(error).contains("refresh.shortest"));
        let error = dns().refresh_between(2 * second, second).unwrap_err();
        assert!(inner(error).contains("refresh.longest"));
        for limit in [Duration::ZERO, Duration::MAX] {
            let error = dns().timeout(limit).unwrap_err();
            assert!(inner(error).contains("timeout"));
        }
    }
}
