//! What was loaded, and how a save differs from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::error::SessionError;
use crate::record::{Patch, Record};
use crate::value;

/// The name under which a record carries what it was when it was loaded. Reserved: what an app stores under it is dropped.
pub const BASE: &str = "__ha_session_base";

pub(super) type Data = HashMap<String, Json>;

/// A record as it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    /// A hash of each value.
    names: BTreeMap<String, String>,
    /// How long until the session would have ended unused, in milliseconds.
    idle_left: u64,
    absolute_left: u64,
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Base {
    /// What a record of tower-sessions holds, with its base.
    pub(super) fn load(record: &Record) -> Result<Data, SessionError> {
        let mut data = Data::new();
        let mut names = BTreeMap::new();
        for (name, stored) in &record.values {
            let json: Json = value::decode(name, &stored.bytes)?;
            // As it would be saved, which may be other bytes than another writer stored for the same value.
            names.insert(
                name.clone(),
                hash(&value::encode(
                    crate::value::ValueFormat::default(),
                    name,
                    &json,
                )?),
            );
            data.insert(name.clone(), json);
        }
        let base = Self {
            names,
            idle_left: ms(record.idle_left),
            absolute_left: ms(record.absolute_left),
        };
        let json = serde_json::to_value(&base).unwrap_or_default();
        data.insert(BASE.to_owned(), json);
        Ok(data)
    }

    pub(super) fn of(data: &Data) -> Option<Self> {
        Self::deserialize(data.get(BASE)?).ok()
    }

    /// What `data` changes of this.
    pub(super) fn changes(&self, data: &Data) -> Result<Patch, SessionError> {
        let mut patch = Patch::new();
        for (name, bytes) in encoded(data)? {
            if self.names.get(name) != Some(&hash(&bytes)) {
                patch.set(name.clone(), bytes);
            }
        }
        remove_missing(&mut patch, self.names.keys(), data);
        Ok(patch)
    }

    pub(super) fn idle_left(&self) -> Duration {
        Duration::from_millis(self.idle_left)
    }

    pub(super) fn absolute_left(&self) -> Duration {
        Duration::from_millis(self.absolute_left)
    }
}

/// Everything in `data`.
pub(super) fn all(data: &Data) -> Result<Patch, SessionError> {
    replacing(data, &BTreeSet::new())
}

/// Everything in `data`, instead of what is `stored`.
pub(super) fn replacing(data: &Data, stored: &BTreeSet<String>) -> Result<Patch, SessionError> {
    let mut patch = Patch::new();
    for (name, bytes) in encoded(data)? {
        patch.set(name.clone(), bytes);
    }
    remove_missing(&mut patch, stored.iter(), data);
    Ok(patch)
}

fn encoded(data: &Data) -> Result<Vec<(&String, Vec<u8>)>, SessionError> {
    data.iter()
        .filter(|(name, _)| *name != BASE)
        .map(|(name, json)| {
            value::check_name(name)?;
            Ok((
                name,
                value::encode(crate::value::ValueFormat::default(), name, json)?,
            ))
        })
        .collect()
}

fn remove_missing<'a>(patch: &mut Patch, names: impl Iterator<Item = &'a String>, data: &Data) {
    for name in names.filter(|name| !data.contains_key(*name)) {
        patch.remove(name.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{Change, Value, Version};

    fn record(values: &[(&str, Json)]) -> Record {
        let value = |(name, json): &(&str, Json)| {
            let bytes = value::encode(crate::value::ValueFormat::default(), name, json)
                .unwrap()
                .into();
            let value = Value {
                version: Version::new(1),
                bytes,
            };
            ((*name).to_owned(), value)
        };
        Record {
            version: Version::new(1),
            values: values.iter().map(value).collect(),
            idle_left: Duration::from_secs(10),
            absolute_left: Duration::from_secs(20),
            superseded: false,
            owner: None,
        }
    }

    #[test]
    fn an_unchanged_record_changes_nothing_whatever_it_holds() {
        let record = record(&[
            ("null", json!(null)),
            ("float", json!(1.5)),
            ("big", json!(u64::MAX)),
            ("small", json!(-3)),
            ("deep", json!({"b": [1, {"a": "x"}], "a": {}})),
        ]);
        let data = Base::load(&record).unwrap();
        let base = Base::of(&data).unwrap();
        assert!(base.changes(&data).unwrap().is_empty());
        assert_eq!(base.idle_left(), Duration::from_secs(10));
        assert_eq!(data["deep"]["b"][1]["a"], "x");
    }

    #[test]
    fn only_what_differs_is_written() {
        let record = record(&[("same", json!(1)), ("other", json!(1)), ("gone", json!(1))]);
        let mut data = Base::load(&record).unwrap();
        let base = Base::of(&data).unwrap();
        data.insert("other".into(), json!(2));
        data.insert("new".into(), json!("x"));
        data.remove("gone");
        let patch = base.changes(&data).unwrap();
        let shown: Vec<_> = patch
            .iter()
            .map(|(name, change)| (name, *change == Change::Remove))
            .collect();
        assert_eq!(shown, [("gone", true), ("new", false), ("other", false)]);
    }

    #[test]
    fn the_base_is_never_stored() {
        let data = Base::load(&record(&[("a", json!(1))])).unwrap();
        assert!(all(&data).unwrap().get(BASE).is_none());
        let stored = ["a".to_owned(), "b".to_owned()].into();
        let patch = replacing(&Data::new(), &stored).unwrap();
        assert_eq!(patch.iter().count(), 2, "cleared: both go");
        let garbage = Data::from([(BASE.to_owned(), json!("garbage"))]);
        assert_eq!(Base::of(&garbage), None);
    }
}
