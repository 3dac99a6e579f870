use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chitchat::{ChitchatId, NodeState};
use ha_core::endpoint::{Endpoint, EndpointError, EndpointKey, Locality, Weight};
use serde::{Deserialize, Serialize};

use super::{AnnouncementError, Error};
use crate::discover::set::is_spoken;

/// Gossip sends datagrams, and a node's announcements must all fit into one.
const LARGEST: usize = 8 * 1024;

/// What a node says about one service. One value, so that no part of it is ever heard without the rest.
#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    key: String,
    address: String,
    weight: u32,
    #[serde(default)]
    priority: u8,
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// The gossip key of a service.
pub(super) fn name(service: &str) -> String {
    format!("endpoint:{service}")
}

pub(super) fn encode(service: &str, endpoint: &Endpoint) -> Result<String, Error> {
    if !is_spoken(&endpoint.address) {
        return Err(Error::Scheme {
            service: service.to_owned(),
            scheme: endpoint.address.scheme().to_owned(),
        });
    }
    let announcement = Announcement {
        key: endpoint.key.to_string(),
        address: endpoint.address.to_string(),
        weight: endpoint.weight.value(),
        priority: endpoint.priority,
        region: endpoint.locality.region.to_string(),
        zone: endpoint.locality.zone.to_string(),
        metadata: endpoint.metadata.clone(),
    };
    // Texts and numbers always become JSON.
    let text = serde_json::to_string(&announcement).unwrap_or_default();
    if text.len() > LARGEST {
        return Err(Error::TooLarge {
            service: service.to_owned(),
            bytes: text.len(),
            limit: LARGEST,
        });
    }
    Ok(text)
}

fn decode(service: &str, node: &ChitchatId, text: &str) -> Result<Endpoint, AnnouncementError> {
    let (node, service) = (node.node_id.to_string(), service.to_owned());
    match serde_json::from_str(text).map(endpoint) {
        Ok(Ok(endpoint)) if is_spoken(&endpoint.address) => Ok(endpoint),
        Ok(Ok(endpoint)) => Err(AnnouncementError::Scheme {
            node,
            service,
            scheme: endpoint.address.scheme().to_owned(),
        }),
        Ok(Err(source)) => Err(AnnouncementError::Endpoint {
            node,
            service,
            source,
        }),
        Err(source) => Err(AnnouncementError::Malformed {
            node,
            service,
            source,
        }),
    }
}

fn endpoint(announcement: Announcement) -> Result<Endpoint, EndpointError> {
    Ok(Endpoint {
        key: EndpointKey::new(announcement.key),
        address: announcement.address.parse()?,
        weight: Weight::new(announcement.weight)?,
        locality: Locality {
            region: announcement.region.into(),
            zone: announcement.zone.into(),
        },
        priority: announcement.priority,
        metadata: announcement.metadata,
    })
}

/// The endpoints of a service among the nodes that are alive, and what could not be taken.
pub(super) fn endpoints(
    service: &str,
    nodes: &BTreeMap<ChitchatId, NodeState>,
) -> (Vec<Endpoint>, Vec<AnnouncementError>) {
    let name = name(service);
    let announced = nodes
        .iter()
        .filter_map(|(id, state)| Some((id, state.get(&name)?)));
    select(service, announced)
}

fn select<'a>(
    service: &str,
    announced: impl Iterator<Item = (&'a ChitchatId, &'a str)>,
) -> (Vec<Endpoint>, Vec<AnnouncementError>) {
    let mut newest: HashMap<EndpointKey, (&ChitchatId, Endpoint)> = HashMap::new();
    let mut errors = Vec::new();
    // The later a node started, the larger its generation.
    let mut announced: Vec<_> = announced.collect();
    announced.sort_by_key(|(id, _)| id.generation_id);
    let mut latest: HashMap<&Arc<str>, u64> = HashMap::new();
    for (id, _) in &announced {
        latest.insert(&id.node_id, id.generation_id);
    }
    for (id, text) in &announced {
        // An earlier life of a node that has started again.
        if latest[&id.node_id] != id.generation_id {
            continue;
        }
        let endpoint = match decode(service, id, text) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let address = endpoint.address.clone();
        let key = endpoint.key.clone();
        if let Some((older, before)) = newest.insert(key.clone(), (id, endpoint))
            && before.address != address
        {
            errors.push(AnnouncementError::Repeated {
                key,
                older: older.node_id.to_string(),
                newer: id.node_id.to_string(),
            });
        }
    }
    let endpoints = newest.into_values().map(|(_, endpoint)| endpoint);
    (endpoints.collect(), errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, generation: u64) -> ChitchatId {
        ChitchatId::new(name, generation, ([127, 0, 0, 1], 1).into())
    }

    fn announced(text: &str) -> String {
        encode("app", &text.parse().unwrap()).unwrap()
    }

    fn selected(told: &[(ChitchatId, String)]) -> (Vec<String>, Vec<AnnouncementError>) {
        let told = told.iter().map(|(id, text)| (id, text.as_str()));
        let (endpoints, errors) = select("app", told);
        let mut addresses: Vec<_> = endpoints.iter().map(|e| e.address.to_string()).collect();
        addresses.sort();
        (addresses, errors)
    }

    #[test]
    fn an_endpoint_arrives_as_it_was_announced() {
        let mut endpoint: Endpoint = "http://[::1]:3000".parse().unwrap();
        endpoint.key = "app-1".into();
        endpoint.weight = Weight::new(7).unwrap();
        endpoint.priority = 3;
        endpoint.locality = Locality {
            region: "eu".into(),
            zone: "a".into(),
        };
        endpoint.metadata.insert("version".into(), "2".into());
        let text = encode("app", &endpoint).unwrap();
        assert_eq!(decode("app", &node("n", 1), &text).unwrap(), endpoint);
    }

    #[test]
    fn only_the_last_life_of_a_node_counts() {
        let told = [
            (node("a", 1), announced("http://10.0.0.1")),
            (node("a", 2), announced("http://10.0.0.2")),
            (node("b", 1), announced("http://10.0.0.3")),
        ];
        let (addresses, errors) = selected(&told);
        assert_eq!(addresses, ["http://10.0.0.2:80", "http://10.0.0.3:80"]);
        assert!(errors.is_empty());
    }

    #[test]
    fn one_bad_announcement_costs_no_other_and_is_told_by_its_node() {
        let bad_weight = announced("http://10.0.0.9").replace("\"weight\":1", "\"weight\":1000001");
        let told = [
            (node("a", 1), announced("http://10.0.0.1")),
            (node("b", 1), "not json".to_owned()),
            (
                node("c", 1),
                announced("http://10.0.0.1").replace("http://", ""),
            ),
            (node("d", 1), bad_weight),
            (
                node("e", 1),
                announced("http://10.0.0.1").replace("http:", "ftp:"),
            ),
        ];
        let (addresses, errors) = selected(&told);
        assert_eq!(addresses, ["http://10.0.0.1:80"]);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 4, "{texts:?}");
        for (text, node) in texts.iter().zip(["node b", "node c", "node d", "\"ftp\""]) {
            assert!(text.contains(node), "{text}");
        }
    }

    #[test]
    fn two_nodes_with_one_key_are_told_and_the_later_one_counts() {
        let same_key =
            announced("http://10.0.0.2").replace("10.0.0.2:80\",\"a", "10.0.0.1:80\",\"a");
        let told = [
            (node("a", 5), same_key),
            (node("b", 4), announced("http://10.0.0.1")),
        ];
        let (addresses, errors) = selected(&told);
        assert_eq!(addresses, ["http://10.0.0.2:80"]);
        assert_eq!(
            errors[0].to_string(),
            "nodes b and a both announce 10.0.0.1:80"
        );
    }

    #[test]
    fn what_does_not_fit_into_a_message_or_is_not_spoken_is_refused_by_its_service() {
        let error = encode("app", &"https://a".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Scheme { .. }), "{error}");
        let mut endpoint: Endpoint = "http://a".parse().unwrap();
        endpoint.metadata.insert("x".into(), "y".repeat(LARGEST));
        let error = encode("app", &endpoint).unwrap_err();
        assert!(error.to_string().contains("\"app\""), "{error}");
    }
}
