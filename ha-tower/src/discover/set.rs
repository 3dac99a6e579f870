use std::collections::{HashMap, HashSet};

use ha_core::endpoint::{Address, Endpoint, EndpointKey};

use super::Change;

/// Why a set of endpoints was refused. Nothing changed: the last good set stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// There is no endpoint in it. See [the rules](super#the-rules-of-a-set).
    #[error("endpoints is empty, at least one is needed")]
    Empty,
    /// Two entries are the same endpoint.
    #[error("endpoints[{index}] repeats {key}")]
    Repeated {
        /// The position of the second one, from 0.
        index: usize,
        /// The key of both.
        key: EndpointKey,
    },
    /// An entry has a scheme that no client here speaks.
    #[error("endpoints[{index}] has the scheme {scheme:?}, only \"http\" is spoken")]
    Scheme {
        /// The position in the set, from 0.
        index: usize,
        /// The scheme.
        scheme: String,
    },
}

/// Whether the client of an upstream speaks the scheme of this address.
pub(super) fn is_spoken(address: &Address) -> bool {
    address.scheme() == "http"
}

pub(super) fn check(endpoints: &[Endpoint]) -> Result<(), SetError> {
    if endpoints.is_empty() {
        return Err(SetError::Empty);
    }
    let mut seen = HashSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        if !is_spoken(&endpoint.address) {
            return Err(SetError::Scheme {
                index,
                scheme: endpoint.address.scheme().to_owned(),
            });
        }
        if !seen.insert(&endpoint.key) {
            return Err(SetError::Repeated {
                index,
                key: endpoint.key.clone(),
            });
        }
    }
    Ok(())
}

/// The last good set.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<EndpointKey, Endpoint>);

impl Known {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a checked set, and says what it changed.
    pub(super) fn replace(&mut self, endpoints: &[Endpoint]) -> Change {
        let new: HashMap<_, _> = endpoints
            .iter()
            .map(|endpoint| (endpoint.key.clone(), endpoint.clone()))
            .collect();
        let old = std::mem::replace(&mut self.0, new);
        let mut change = Change {
            total: self.0.len(),
            ..Change::default()
        };
        for (key, endpoint) in &self.0 {
            match old.get(key) {
                None => change.added.push(key.clone()),
                Some(before) if before != endpoint => change.changed.push(key.clone()),
                Some(_) => {}
            }
        }
        change.removed = old
            .into_keys()
            .filter(|key| !self.0.contains_key(key))
            .collect();
        change.added.sort_unstable();
        change.removed.sort_unstable();
        change.changed.sort_unstable();
        change
    }
}

#[cfg(test)]
mod tests {
    use ha_core::endpoint::Weight;

    use super::*;

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn bad_sets_are_refused_by_position_and_value() {
        assert_eq!(check(&[]), Err(SetError::Empty));
        let repeated = check(&endpoints(&["http://a", "http://a:80"])).unwrap_err();
        assert_eq!(repeated.to_string(), "endpoints[1] repeats a:80");
        let scheme = check(&endpoints(&["https://a"])).unwrap_err();
        assert!(scheme.to_string().contains("\"https\""));
    }

    #[test]
    fn a_change_names_what_came_what_went_and_what_is_different() {
        let mut known = Known::default();
        let first = known.replace(&endpoints(&["http://b", "http://a"]));
        assert_eq!(first.added, ["a:80".into(), "b:80".into()]);
        assert!(
            known
                .replace(&endpoints(&["http://a", "http://b"]))
                .is_none()
        );
        let mut second = endpoints(&["http://b", "http://c"]);
        second[0].weight = Weight::ZERO;
        let change = known.replace(&second);
        assert_eq!(change.added, ["c:80".into()]);
        assert_eq!(change.removed, ["a:80".into()]);
        assert_eq!(change.changed, ["b:80".into()]);
        assert_eq!((change.total, known.len()), (2, 2));
    }
}
