//! An endpoint as the store holds it.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::endpoint::{Endpoint, EndpointKey, Locality, Weight};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Wire {
    address: String,
    weight: u32,
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    priority: u8,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

pub(super) fn encode(endpoint: &Endpoint) -> String {
    let wire = Wire {
        address: endpoint.address.to_string(),
        weight: endpoint.weight.value(),
        region: endpoint.locality.region.to_string(),
        zone: endpoint.locality.zone.to_string(),
        priority: endpoint.priority,
        metadata: endpoint.metadata.clone(),
    };
    // Texts and numbers in a struct: there is nothing that could fail.
    serde_json::to_string(&wire).unwrap_or_default()
}

/// `None` for what nobody of ours wrote.
fn decode(key: &str, text: &str) -> Option<Endpoint> {
    let wire: Wire = serde_json::from_str(text).ok()?;
    let mut endpoint = Endpoint::new(wire.address.parse().ok()?).with_key(key);
    endpoint.weight = Weight::new(wire.weight).ok()?;
    endpoint.locality = Locality {
        region: wire.region.into(),
        zone: wire.zone.into(),
    };
    endpoint.priority = wire.priority;
    endpoint.metadata = wire.metadata;
    Some(endpoint)
}

/// One announcement as a look at the store finds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) key: EndpointKey,
    /// Who announced it: a successor has a higher one.
    pub(super) incarnation: i64,
    /// Grows with every heartbeat.
    pub(super) beat: i64,
    /// How often it promises a heartbeat.
    pub(super) every: Duration,
    /// How long ago the last one was, by the store's clock.
    pub(super) age: Duration,
    /// `None` once it has drained.
    pub(super) endpoint: Option<Endpoint>,
}

impl Row {
    /// Reads what the store holds. An empty `text` is what a drained one leaves behind.
    pub(super) fn read(
        key: &str,
        incarnation: i64,
        beat: i64,
        every_ms: i64,
        age_ms: i64,
        text: &str,
    ) -> Option<Self> {
        let endpoint = match text {
            "" => None,
            text => Some(decode(key, text)?),
        };
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Some(Self {
            key: EndpointKey::new(key),
            incarnation,
            beat,
            every: ms(every_ms).max(Duration::from_millis(1)),
            age: ms(age_ms),
            endpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_arrives_whole_and_what_is_garbled_does_not_arrive() {
        let mut endpoint: Endpoint = "http://10.0.0.7:3000".parse().unwrap();
        endpoint.weight = Weight::new(7).unwrap();
        endpoint.priority = 3;
        endpoint.locality.zone = "eu-1a".into();
        endpoint.metadata.insert("version".into(), "1\"2".into());
        let row = Row::read("k", 1, 2, 1000, -5, &encode(&endpoint)).unwrap();
        assert_eq!(row.endpoint, Some(endpoint.with_key("k")));
        assert_eq!(row.age, Duration::ZERO);
        assert_eq!(Row::read("k", 1, 2, 1000, 0, "").unwrap().endpoint, None);
        for bad in [
            "nonsense",
            "{}",
            r#"{"address":"no scheme","weight":1}"#,
            r#"{"address":"http://a","weight":4000000}"#,
        ] {
            assert_eq!(Row::read("k", 1, 2, 1000, 0, bad), None, "{bad}");
        }
    }
}
