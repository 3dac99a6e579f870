//! Between rows and records.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::NAME;
use crate::id::SessionKey;
use crate::principal::{Owner, Principal, SessionInfo};
use crate::record::{Change, FORMAT, Record, Value, Version};
use crate::store::{Commit, Ending, Gone, Load, Outcome, StoreError};

/// Bytes of a key with its slot tag.
const TAGGED: usize = 34;

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
    let owner = owner(&row, 7, 8, 10)?;
    let newest: Option<i64> = field(&row, 9)?;
    match state {
        2 => return gone(Ending::Destroyed),
        1 if idle_left <= 0 => return gone(Ending::Rotated),
        0 | 1 if revoked(owner.as_ref(), newest) => {
            return Ok(Load::Gone(Gone {
                ending: Ending::Revoked,
                ago: owner.and_then(|owner| owner.revoked_ago),
            }));
        }
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
        owner,
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
                owner: owner(&row, 7, 8, 9)?,
            }))
        }
        "missing" => gone(Ending::Missing),
        "destroyed" => gone(Ending::Destroyed),
        "rotated" => gone(Ending::Rotated),
        "revoked" => gone(Ending::Revoked),
        "expired" => gone(Ending::Expired),
        "overtaken" => Ok(Outcome::Overtaken),
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

/// Whose the session is, from the columns with the principal, its epoch, and how long ago it was revoked.
fn owner(
    row: &Row,
    principal: usize,
    epoch: usize,
    ago: usize,
) -> Result<Option<Owner>, StoreError> {
    let Some(name) = field::<Option<String>>(row, principal)? else {
        return Ok(None);
    };
    let principal = Principal::new(name).map_err(|_| corrupt("a principal without a name"))?;
    let epoch: i64 = field(row, epoch)?;
    let ago: Option<i64> = field(row, ago)?;
    let epoch = u64::try_from(epoch).unwrap_or(0);
    Ok(Some(Owner::new(principal, epoch, ago.map(duration))))
}

fn revoked(owner: Option<&Owner>, newest: Option<i64>) -> bool {
    let newest = newest.and_then(|epoch| u64::try_from(epoch).ok());
    match (owner, newest) {
        (Some(owner), Some(newest)) => owner.epoch < newest,
        _ => false,
    }
}

/// A key with its slot tag before it.
pub(super) fn tagged(key: &SessionKey) -> [u8; TAGGED] {
    let mut bytes = [0; TAGGED];
    bytes[..2].copy_from_slice(&key.tag());
    bytes[2..].copy_from_slice(key.hash());
    bytes
}

/// Reads a key with its slot tag before it.
pub(super) fn key(row: &Row, index: usize) -> Result<SessionKey, StoreError> {
    parse_key(field(row, index)?)
}

fn parse_key(bytes: &[u8]) -> Result<SessionKey, StoreError> {
    let parts = bytes.split_first_chunk::<2>();
    let parts = parts.and_then(|(tag, hash)| Some((*tag, <[u8; 32]>::try_from(hash).ok()?)));
    let (tag, hash) = parts.ok_or_else(|| corrupt("a key of another length"))?;
    Ok(SessionKey::from_parts(tag, hash))
}

/// Reads the answer of the function that draws an epoch.
pub(super) fn epoch(row: Option<Row>) -> Result<(u64, Option<SessionKey>), StoreError> {
    let row = row.ok_or_else(|| corrupt("no answer to a revocation"))?;
    let epoch: i64 = field(&row, 0)?;
    let kept: Option<&[u8]> = field(&row, 1)?;
    let kept = kept.map(parse_key).transpose()?;
    Ok((u64::try_from(epoch).unwrap_or(0), kept))
}

/// The values of a change as JSON: name to version, and base64 or null.
#[cfg(feature = "journal")]
pub(super) fn replayed_values(changes: &crate::store::tiered::Changes) -> String {
    let values = changes.values.iter().map(|(name, version, bytes)| {
        let text = bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
        (name.clone(), serde_json::json!([version.get(), text]))
    });
    serde_json::Value::Object(values.collect()).to_string()
}

/// Reads the answer of the function that replays.
#[cfg(feature = "journal")]
pub(super) fn replayed(row: Option<Row>) -> Result<super::Replayed, StoreError> {
    let row = row.ok_or_else(|| corrupt("no answer to a replay"))?;
    let outcome: &str = field(&row, 0)?;
    Ok(match outcome {
        "replayed" => super::Replayed::Taken,
        "missing" => super::Replayed::Ended("missing"),
        "destroyed" => super::Replayed::Ended("destroyed"),
        "rotated" => super::Replayed::Ended("rotated"),
        "revoked" => super::Replayed::Ended("revoked"),
        "expired" => super::Replayed::Ended("expired"),
        "format" => super::Replayed::Ended("format"),
        _ => return Err(corrupt("an unknown outcome")),
    })
}

/// Reads what the clock says.
#[cfg(feature = "journal")]
pub(super) fn now(row: Option<Row>) -> Result<u64, StoreError> {
    let row = row.ok_or_else(|| corrupt("no answer of the clock"))?;
    let now: i64 = field(&row, 0)?;
    Ok(u64::try_from(now).unwrap_or(0))
}

/// Reads the answer of the function that deletes a batch.
pub(super) fn cleaned(row: Option<Row>) -> Result<(u64, Duration), StoreError> {
    let row = row.ok_or_else(|| corrupt("no answer to a deletion"))?;
    let deleted: Option<i64> = field(&row, 0)?;
    let deleted = deleted.and_then(|rows| u64::try_from(rows).ok());
    Ok((deleted.unwrap_or(0), duration(field(&row, 1)?)))
}

/// Reads one row of the list of a principal's sessions.
pub(super) fn info(row: &Row, tag: [u8; 2]) -> Result<SessionInfo, StoreError> {
    let hash: &[u8] = field(row, 0)?;
    let hash = hash
        .try_into()
        .map_err(|_| corrupt("a key of another length"))?;
    let claimed: Option<i64> = field(row, 2)?;
    Ok(SessionInfo::new(
        SessionKey::from_parts(tag, hash),
        field(row, 1)?,
        duration(claimed.unwrap_or(0)),
        duration(field(row, 3)?),
    ))
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
