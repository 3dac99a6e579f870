use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use ha_core::endpoint::EndpointError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Answered, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData};

use super::DnsError;
/// Why a lookup brought nothing. The last good set stays, and the name is asked again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// No server answered in time.
    #[error("looking up {name:?} brought no answer within {limit:?}")]
    Timeout {
        /// The name asked for.
        name: String,
        /// The time it was given.
        limit: Duration,
    },
    /// The answer says that the name has no such records.
    #[error("looking up {name:?} brought an answer without records")]
    Empty {
        /// The name asked for.
        name: String,
    },
    /// The servers failed, cannot be reached, or know no such name.
    #[error("looking up {name:?} failed")]
    Failed {
        /// The name asked for.
        name: String,
        /// What the resolver said.
        #[source]
        source: NetError,
    },
    /// An SRV record is no good: it has the port 0.
    #[error("the srv record for {target:?} is refused")]
    Record {
        /// The target of the record.
        target: String,
        /// What is wrong with it.
        #[source]
        source: EndpointError,
    },
}

impl LookupError {
    /// Whether the servers say that there is no such name.
    #[must_use]
    pub fn is_no_such_name(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.is_nx_domain())
    }

    /// Whether no server answered in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    config: ResolverConfig,
    options: ResolverOpts,
}

impl Servers {
    pub(super) fn system() -> Result<Self, DnsError> {
        let (config, options) =
            hickory_resolver::system_conf::read_system_conf().map_err(DnsError::System)?;
        Ok(Self { config, options })
    }

    pub(super) fn these(config: ResolverConfig) -> Self {
        Self {
            config,
            options: ResolverOpts::default(),
        }
    }

    fn resolver(
        &self,
        strategy: LookupIpStrategy,
        shortest: Duration,
        limit: Duration,
    ) -> Result<TokioResolver, NetError> {
        let mut options = self.options.clone();
        options.ip_strategy = strategy;
        // A failure must not be remembered for longer than the wait until the next lookup.
        options.negative_max_ttl = Some(shortest.min(Duration::from_secs(1)) / 2);
        options.timeout = options.timeout.min(limit / 2);
        let provider = TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(self.config.clone(), provider)
            .with_options(options)
            .build()
    }
}

/// The addresses of one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) ips: BTreeSet<IpAddr>,
    pub(super) valid_until: Instant,
}

/// Asks, and remembers the last addresses of each name by family.
pub(super) struct Lookups {
    // One per family, because a resolver that asks for both hides the failure of one.
    families: [TokioResolver; 2],
    limit: Duration,
    last: HashMap<String, [BTreeSet<IpAddr>; 2]>,
}

/// When a name that failed beside others is asked for again.
const STALE: Duration = Duration::from_secs(5);
/// Names asked for at the same time.
const AT_ONCE: usize = 16;

impl Lookups {
    pub(super) fn new(
        servers: &Servers,
        shortest: Duration,
        limit: Duration,
    ) -> Result<Self, NetError> {
        let family = |strategy| servers.resolver(strategy, shortest, limit);
        Ok(Self {
            families: [
                family(LookupIpStrategy::Ipv4Only)?,
                family(LookupIpStrategy::Ipv6Only)?,
            ],
            limit,
            last: HashMap::new(),
        })
    }

    pub(super) async fn one(&mut self, name: &str) -> Result<Found, LookupError> {
        let found = self.addresses(vec![name.to_owned()]).await.pop();
        found.unwrap_or_else(|| Err(empty(name)))
    }

    /// The addresses of each of these names, in their order. What was known of other names is forgotten.
    pub(super) async fn addresses(
        &mut self,
        names: Vec<String>,
    ) -> Vec<Result<Found, LookupError>> {
        let ask = |name| both_families(self.families.clone(), self.limit, name);
        let asked: Vec<_> = stream::iter(names.into_iter().map(ask))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut before = std::mem::take(&mut self.last);
        let merged = asked.into_iter().map(|(name, answers)| {
            let before = before.remove(&name).unwrap_or_default();
            let (found, families) = merge(&name, answers, before);
            self.last.insert(name, families);
            found
        });
        merged.collect()
    }

    /// What a name brought before it could not be looked up.
    pub(super) fn last(&self, name: &str) -> Option<Found> {
        let families = self.last.get(name)?;
        let ips: BTreeSet<_> = families.iter().flatten().copied().collect();
        let valid_until = crate::clock::now() + STALE;
        (!ips.is_empty()).then_some(Found { ips, valid_until })
    }

    /// The SRV records of a name. A single one with the target `.` says that there is no such service.
    pub(super) async fn services(&self, name: &Name) -> Result<(Vec<SRV>, Instant), LookupError> {
        let text = name.to_utf8();
        let asked = self.families[0].srv_lookup(name.clone());
        let lookup = within(self.limit, &text, asked).await?;
        let records: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
                _ => None,
            })
            .collect();
        if records.is_empty() {
            return Err(empty(&text));
        }
        Ok((records, lookup.valid_until()))
    }
}

async fn both_families(
    resolvers: [TokioResolver; 2],
    limit: Duration,
    name: String,
) -> (String, [Answer; 2]) {
    let [v4, v6] = &resolvers;
    let (v4, v6) = futures_util::join!(
        within(limit, &name, v4.lookup_ip(name.as_str())),
        within(limit, &name, v6.lookup_ip(name.as_str())),
    );
    let found = |lookup: LookupIp| Found {
        ips: lookup.iter().collect(),
        valid_until: lookup.valid_until(),
    };
    (name, [v4.map(found), v6.map(found)])
}

async fn within<T>(
    limit: Duration,
    name: &str,
    lookup: impl Future<Output = Result<T, NetError>>,
) -> Result<T, LookupError> {
    match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(source)) if has_no_records(&source) => Err(empty(name)),
        Ok(Err(NetError::Timeout)) | Err(_) => Err(LookupError::Timeout {
            name: name.to_owned(),
            limit,
        }),
        Ok(Err(source)) => Err(LookupError::Failed {
            name: name.to_owned(),
            source,
        }),
    }
}

fn empty(name: &str) -> LookupError {
    LookupError::Empty {
        name: name.to_owned(),
    }
}

/// Whether the name is there, and has no records of the kind asked for.
fn has_no_records(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Dns(Answered::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError
    )
}

type Answer = Result<Found, LookupError>;
type Families = [BTreeSet<IpAddr>; 2];

/// Joins the answers of both families, and says what to remember. When one brought addresses, the other counts with what it
/// brought before if it failed, and with none if it said that there are none. When neither did, nothing is forgotten.
fn merge(name: &str, answers: [Answer; 2], before: Families) -> (Answer, Families) {
    let fresh = answers
        .iter()
        .flatten()
        .filter(|found| !found.ips.is_empty());
    let Some(valid_until) = fresh.map(|found| found.valid_until).min() else {
        let mut failures = answers.into_iter().filter_map(Result::err);
        let failure = failures
            .find(|error| !matches!(error, LookupError::Empty { .. }))
            .unwrap_or_else(|| empty(name));
        return (Err(failure), before);
    };
    let [v4, v6] = answers;
    let [v4_before, v6_before] = before;
    let families = [kept(name, v4, v4_before), kept(name, v6, v6_before)];
    let ips = families.iter().flatten().copied().collect();
    (Ok(Found { ips, valid_until }), families)
}

fn kept(name: &str, answer: Answer, before: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    match answer {
        Ok(found) => found.ips,
        Err(LookupError::Empty { .. }) => BTreeSet::new(),
        Err(error) => {
            crate::trace::debug!(name, %error, "one address family could not be looked up");
            before
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn failed() -> Answer {
        Err(LookupError::Timeout {
            name: "a".to_owned(),
            limit: Duration::from_secs(1),
        })
    }

    fn none() -> Answer {
        Err(empty("a"))
    }

    #[test]
    fn a_family_that_fails_keeps_its_addresses_and_one_without_records_has_none() {
        let until = crate::clock::now();
        let found = |texts: &[&str]| {
            Ok(Found {
                ips: ips(texts),
                valid_until: until,
            })
        };
        let before = || [ips(&["10.0.0.1"]), ips(&["::1"])];
        for (v4, v6, expected) in [
            (
                found(&["10.0.0.2"]),
                found(&["::2"]),
                Some(vec!["10.0.0.2", "::2"]),
            ),
            (found(&["10.0.0.2"]), none(), Some(vec!["10.0.0.2"])),
            (
                found(&["10.0.0.2"]),
                failed(),
                Some(vec!["10.0.0.2", "::1"]),
            ),
            (failed(), found(&["::2"]), Some(vec!["10.0.0.1", "::2"])),
            (none(), none(), None),
            (none(), failed(), None),
            (failed(), none(), None),
            (failed(), failed(), None),
        ] {
            let shape = format!("{v4:?} {v6:?}");
            let (answer, families) = merge("a", [v4, v6], before());
            match expected {
                Some(expected) => assert_eq!(answer.unwrap().ips, ips(&expected), "{shape}"),
                None => {
                    assert!(answer.is_err(), "{shape}");
                    assert_eq!(families, before(), "{shape}");
                }
            }
        }
    }

    #[test]
    fn the_shorter_ttl_of_both_families_counts() {
        let now = crate::clock::now();
        let found = |text, seconds| {
            Ok(Found {
                ips: ips(&[text]),
                valid_until: now + Duration::from_secs(seconds),
            })
        };
        let answers = [found("10.0.0.1", 60), found("::1", 5)];
        let (answer, _) = merge("a", answers, Families::default());
        assert_eq!(answer.unwrap().valid_until, now + Duration::from_secs(5));
    }
}
