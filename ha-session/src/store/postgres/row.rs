//! Between rows and records.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::NAME;
use crate::record::{Change, FORMAT, Record, Value, Version};
use crate::store::{Commit, Ending, Gone, Load, Outcome, StoreError};

/// The parts of a commit that travel as JSON.
pub(super) struct CommitParams<'a> {
    pub(super) set: String,
    pub(super) remove: Vec<&'a str>,
    pub(super) expected: String,
}

impl<'a> CommitParams<'a> {
    pub(super) fn new(commit: &'a Commit) -> Self {
        let mut set = serde_json::Map::new();
        let mut remove = Vec::new();
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => {
                    set.insert(name.to_owned(), STANDARD.encode(bytes).into());
                }
                Change::Remove => remove.push(name),
            }
        }
        let expected: serde_json::Map<_, _> = commit
            .expected
            .iter()
            .flatten()
            .map(|(name, version)| (name.clone(), version.get().into()))
            .collect();
        Self {
            set: serde_json::Value::Object(set).to_string(),
            remove,
            expected: serde_json::Value::Object(expected).to_string(),
        }
    }
}

/// Reads the answer of the load statement.
pub(super) fn load(row: Option<Row>) -> Result<Load, StoreError> {
    let Some(row) = row else {
        return Ok(Load::Gone(Gone::MISSING));
    };
    let format: i32 = field(&row, 0)?;
    check_format(format)?;
    let state: i32 = field(&row, 2)?;
    let idle_left: i64 = field(&row, 4)?;
    let ago: i64 = field(&row, 6)?;
    let gone = |ending| {
        let ago = Some(duration(ago));
        Ok(Load::Gone(Gone { ending, ago }))
    };
    match state {
        2 => return gone(Ending::Destroyed),
        1 if idle_left <= 0 => return gone(Ending::Rotated),
        0 if idle_left <= 0 => return gone(Ending::Expired),
        0 | 1 => {}
        _ => return Err(corrupt("an unknown state")),
    }
    let data: String = field(&row, 3)?;
    Ok(Load::Found(Record {
        version: version(field(&row, 1)?),
        values: values(&data)?,
        idle_left: duration(idle_left),
        absolute_left: duration(field(&row, 5)?),
        superseded: state == 1,
        owner: None,
    }))
}

/// Reads the answer of the commit function.
pub(super) fn outcome(row: Option<Row>) -> Result<Outcome, StoreError> {
    let row = row.ok_or_else(|| corrupt("no answer to a commit"))?;
    let name: String = field(&row, 0)?;
    let ago: Option<i64> = field(&row, 5)?;
    let gone = |ending| {
        let ago = ago.map(duration);
        Ok(Outcome::Gone(Gone { ending, ago }))
    };
    match name.as_str() {
        "committed" => {
            let data: String = field(&row, 6)?;
            Ok(Outcome::Committed(Record {
                version: version(field(&row, 2)?),
                values: values(&data)?,
                idle_left: duration(field(&row, 3)?),
                absolute_left: duration(field(&row, 4)?),
                superseded: false,
                owner: None,
            }))
        }
        "missing" => gone(Ending::Missing),
        "destroyed" => gone(Ending::Destroyed),
        "rotated" => gone(Ending::Rotated),
        "expired" => gone(Ending::Expired),
        "superseded" => Ok(Outcome::Superseded),
        "conflict" => {
            let names: String = field(&row, 6)?;
            let keys = serde_json::from_str(&names);
            Ok(Outcome::Conflict {
                keys: keys.map_err(|_| corrupt("an answer of another shape"))?,
            })
        }
        "too_large" => {
            let bytes: i64 = field(&row, 2)?;
            Ok(Outcome::TooLarge {
                bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            })
        }
        "format" => {
            check_format(field(&row, 1)?)?;
            Err(corrupt("a format that it does not know itself"))
        }
        _ => Err(corrupt("an unknown outcome")),
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &str) {
    drop(values(data));
}

fn values(data: &str) -> Result<BTreeMap<String, Value>, StoreError> {
    let stored: BTreeMap<String, (u64, String)> =
        serde_json::from_str(data).map_err(|_| corrupt("values of another shape"))?;
    stored
        .into_iter()
        .map(|(name, (version, text))| {
            let bytes = STANDARD.decode(text);
            let value = Value {
                version: Version::new(version),
                bytes: bytes
                    .map_err(|_| corrupt("a value that is not base64"))?
                    .into(),
            };
            Ok((name, value))
        })
        .collect()
}

fn check_format(format: i32) -> Result<(), StoreError> {
    if format == i32::from(FORMAT) {
        return Ok(());
    }
    Err(StoreError::Format {
        found: u64::try_from(format).unwrap_or(0),
    })
}

fn field<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, StoreError> {
    row.try_get(index)
        .map_err(|_| corrupt("a column of another type"))
}

fn version(number: i64) -> Version {
    Version::new(u64::try_from(number).unwrap_or(0))
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt { store: NAME, what }
}
