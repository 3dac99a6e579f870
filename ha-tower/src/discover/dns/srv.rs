use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use ha_core::endpoint::{Address, Endpoint, EndpointKey, Weight};
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::rdata::SRV;

use super::Round;
use super::lookup::{Found, LookupError, Lookups};

/// Asks for the records, then for the addresses of their targets.
pub(super) async fn ask(lookups: &mut Lookups, name: &Name) -> Result<Round, LookupError> {
    let (records, valid_until) = lookups.services(name).await?;
    let targets: BTreeSet<_> = records.iter().map(|record| &record.target).collect();
    let names: Vec<_> = targets.iter().map(|target| target.to_utf8()).collect();
    let found = lookups.addresses(names.clone()).await;
    let any_is_fresh = found.iter().any(Result::is_ok);
    let (mut failures, mut addresses) = (Vec::new(), HashMap::new());
    for ((target, name), found) in targets.into_iter().zip(names).zip(found) {
        let found = found.map_or_else(
            |failure| {
                failures.push(failure);
                lookups.last(&name).filter(|_| any_is_fresh)
            },
            Some,
        );
        addresses.extend(found.map(|found| (target, found)));
    }
    let (endpoints, refused) = endpoints(&records, &addresses);
    failures.extend(refused);
    if endpoints.is_empty()
        && let Some(failure) = failures.pop()
    {
        return Err(failure);
    }
    Ok(Round {
        endpoints,
        valid_until: earliest(valid_until, &addresses),
        failures,
    })
}

fn earliest(records: Instant, addresses: &HashMap<&Name, Found>) -> Instant {
    let all = addresses.values().map(|found| found.valid_until);
    all.fold(records, Instant::min)
}

/// The endpoints of the records whose targets have addresses, by the rules that [`srv`](super::srv) tells, and what is wrong
/// with the others.
fn endpoints(
    records: &[SRV],
    addresses: &HashMap<&Name, Found>,
) -> (Vec<Endpoint>, Vec<LookupError>) {
    let priorities = Priorities::of(records);
    let weights = Weights::of(records);
    let mut endpoints: BTreeMap<EndpointKey, Endpoint> = BTreeMap::new();
    let mut refused = Vec::new();
    for record in records {
        let Some(found) = addresses.get(&record.target) else {
            continue;
        };
        for ip in &found.ips {
            let address = SocketAddr::new(*ip, record.port);
            let address = match format!("http://{address}").parse::<Address>() {
                Ok(address) => address,
                Err(source) => {
                    refused.push(LookupError::Record {
                        target: record.target.to_utf8(),
                        source,
                    });
                    break;
                }
            };
            let mut endpoint = Endpoint::new(address).with_weight(weights.weight(record));
            endpoint.priority = priorities.priority(record);
            endpoints
                .entry(endpoint.key.clone())
                .and_modify(|known| join(known, &endpoint))
                .or_insert(endpoint);
        }
    }
    (endpoints.into_values().collect(), refused)
}

/// Two records that lead to the same place.
fn join(known: &mut Endpoint, other: &Endpoint) {
    if other.priority < known.priority {
        known.clone_from(other);
    } else if other.priority == known.priority {
        let sum = known.weight.value().saturating_add(other.weight.value());
        known.weight = Weight::new(sum).unwrap_or(Weight::MAX);
    }
}

/// The numbers of the records, or their ranks when one of the numbers is too large.
struct Priorities {
    ranked: Option<Vec<u16>>,
}

impl Priorities {
    fn of(records: &[SRV]) -> Self {
        let all: BTreeSet<_> = records.iter().map(|record| record.priority).collect();
        let too_large = all.last().is_some_and(|last| *last > u16::from(u8::MAX));
        Self {
            ranked: too_large.then(|| all.into_iter().collect()),
        }
    }

    fn priority(&self, record: &SRV) -> u8 {
        let number = match &self.ranked {
            Some(ranked) => ranked.partition_point(|other| *other < record.priority),
            None => usize::from(record.priority),
        };
        u8::try_from(number).unwrap_or(u8::MAX)
    }
}

/// The weights of the records, where a priority without any weight has equal ones.
struct Weights {
    weighted: BTreeSet<u16>,
}

impl Weights {
    fn of(records: &[SRV]) -> Self {
        let weighted = records.iter().filter(|record| record.weight > 0);
        Self {
            weighted: weighted.map(|record| record.priority).collect(),
        }
    }

    fn weight(&self, record: &SRV) -> Weight {
        if self.weighted.contains(&record.priority) {
            Weight::new(u32::from(record.weight)).unwrap_or(Weight::MAX)
        } else {
            Weight::ONE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, Name::from_utf8(target).unwrap())
    }

    /// Each target has one address: the number in its name is the last byte.
    fn told(records: &[SRV]) -> Vec<(String, u8, u32)> {
        let until = crate::clock::now() + Duration::from_secs(1);
        let found = |name: &Name| Found {
            ips: BTreeSet::from([format!("10.0.0.{}", &name.to_utf8()[1..2]).parse().unwrap()]),
            valid_until: until,
        };
        let addresses = records
            .iter()
            .map(|record| (&record.target, found(&record.target)))
            .collect();
        let (endpoints, _) = endpoints(records, &addresses);
        endpoints
            .into_iter()
            .map(|e| (e.key.to_string(), e.priority, e.weight.value()))
            .collect()
    }

    #[test]
    fn weights_ports_and_priorities_are_those_of_the_records() {
        let records = [record(10, 60, 80, "a1."), record(20, 5, 81, "a2.")];
        assert_eq!(
            told(&records),
            [
                ("10.0.0.1:80".to_owned(), 10, 60),
                ("10.0.0.2:81".to_owned(), 20, 5)
            ]
        );
    }

    #[test]
    fn weight_0_means_no_picks_beside_others_and_equal_shares_alone() {
        let mixed = [record(0, 0, 80, "a1."), record(0, 3, 80, "a2.")];
        assert_eq!(told(&mixed).iter().map(|e| e.2).collect::<Vec<_>>(), [0, 3]);
        let alone = [record(1, 0, 80, "a1."), record(1, 0, 80, "a2.")];
        assert_eq!(told(&alone).iter().map(|e| e.2).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn priorities_beyond_a_byte_are_ranked() {
        let records = [
            record(300, 1, 80, "a1."),
            record(7, 1, 80, "a2."),
            record(65_535, 1, 80, "a3."),
        ];
        assert_eq!(
            told(&records).iter().map(|e| e.1).collect::<Vec<_>>(),
            [1, 0, 2]
        );
    }

    #[test]
    fn records_of_one_place_are_one_endpoint() {
        let same = [
            record(1, 2, 80, "a1."),
            record(1, 3, 80, "b1."),
            record(2, 9, 80, "c1."),
        ];
        assert_eq!(told(&same), [("10.0.0.1:80".to_owned(), 1, 5)]);
    }

    #[test]
    fn a_record_without_a_port_is_refused_by_its_target() {
        let records = [record(1, 1, 0, "a1.")];
        let found = Found {
            ips: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
            valid_until: crate::clock::now(),
        };
        let addresses = HashMap::from([(&records[0].target, found)]);
        let (endpoints, refused) = endpoints(&records, &addresses);
        assert!(endpoints.is_empty());
        assert!(refused[0].to_string().contains("a1."), "{refused:?}");
    }
}
