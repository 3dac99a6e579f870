//! What the scripts answer.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use crate::id::SessionKey;
use crate::principal::{Owner, Principal, SessionInfo};
use crate::record::{Record, Value, Version};
use crate::store::{Ending, Gone, Outcome, StoreError};

pub(crate) const NAME: &str = "redis";
const HEAD: usize = 13;

/// What is kept in Redis for a session.
#[derive(Debug)]
pub(crate) enum Stored {
    Found(Record),
    Gone(Gone),
    Missing,
}

/// The head that every script answers with, and names with values behind it.
pub(super) struct Reply {
    view: String,
    format: u64,
    version: u64,
    idle_left: u64,
    absolute_left: u64,
    ago: Option<u64>,
    /// Milliseconds since this was known to be the newest state.
    #[cfg(feature = "postgres")]
    pub(super) age: u64,
    /// Tag and hash of the session that goes on.
    successor: String,
    principal: String,
    epoch: u64,
    revoked_ago: Option<u64>,
    /// It has changes that some journal has and PostgreSQL lacks.
    #[cfg(feature = "postgres")]
    pub(super) pending: bool,
    /// PostgreSQL has never heard of it.
    #[cfg(feature = "journal")]
    pub(super) born: bool,
    rest: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reply {
    pub(super) fn parse(parts: Vec<Vec<u8>>) -> Result<Self, StoreError> {
        if parts.len() < HEAD || !(parts.len() - HEAD).is_multiple_of(2) {
            return Err(corrupt("an answer of another shape"));
        }
        let ago: i64 = number(&parts[5])?;
        let view = text(&parts[0])?.to_owned();
        let (format, version) = (number(&parts[1])?, number(&parts[2])?);
        let left = |part: &[u8]| Ok(u64::try_from(number::<i64>(part)?).unwrap_or(0));
        let (idle_left, absolute_left) = (left(&parts[3])?, left(&parts[4])?);
        #[cfg(feature = "postgres")]
        let age = left(&parts[6])?;
        let successor = text(&parts[7])?.to_owned();
        let principal = text(&parts[8])?.to_owned();
        let epoch = number(&parts[9])?;
        let revoked_ago: i64 = number(&parts[10])?;
        let (pending, born) = (parts[11] == b"1", parts[12] == b"1");
        #[cfg(not(feature = "postgres"))]
        let _ = pending;
        #[cfg(not(feature = "journal"))]
        let _ = born;
        let mut rest = Vec::new();
        let mut tail = parts.into_iter().skip(HEAD);
        while let (Some(name), Some(value)) = (tail.next(), tail.next()) {
            rest.push((name, value));
        }
        Ok(Self {
            view,
            format,
            version,
            idle_left,
            absolute_left,
            ago: u64::try_from(ago).ok(),
            #[cfg(feature = "postgres")]
            age,
            successor,
            principal,
            epoch,
            revoked_ago: u64::try_from(revoked_ago).ok(),
            #[cfg(feature = "postgres")]
            pending,
            #[cfg(feature = "journal")]
            born,
            rest,
        })
    }

    pub(super) fn check_format(&self) -> Result<(), StoreError> {
        if self.view == "format" {
            return Err(StoreError::Format { found: self.format });
        }
        Ok(())
    }

    pub(super) fn stored(self) -> Result<Stored, StoreError> {
        self.check_format()?;
        if self.view == "missing" {
            return Ok(Stored::Missing);
        }
        if let Some(gone) = self.gone() {
            return Ok(Stored::Gone(gone));
        }
        let superseded = match self.view.as_str() {
            "live" => false,
            "superseded" => true,
            _ => return Err(corrupt("an unknown state")),
        };
        self.record(superseded).map(Stored::Found)
    }

    pub(super) fn outcome(self) -> Result<Outcome, StoreError> {
        self.check_format()?;
        if let Some(gone) = self.gone() {
            return Ok(Outcome::Gone(gone));
        }
        match self.view.as_str() {
            "live" => Ok(Outcome::Committed(self.record(false)?)),
            "superseded" => Ok(Outcome::Superseded),
            "overtaken" => Ok(Outcome::Overtaken),
            "conflict" => {
                let names = self
                    .rest
                    .into_iter()
                    .map(|(name, _)| String::from_utf8(name));
                let keys = names.collect::<Result<_, _>>();
                Ok(Outcome::Conflict {
                    keys: keys.map_err(|_| corrupt("a name that is not text"))?,
                })
            }
            "too_large" => Ok(Outcome::TooLarge {
                bytes: usize::try_from(self.ago.unwrap_or(0)).unwrap_or(usize::MAX),
            }),
            _ => Err(corrupt("an unknown state")),
        }
    }

    fn gone(&self) -> Option<Gone> {
        let ending = match self.view.as_str() {
            "missing" => Ending::Missing,
            "destroyed" => Ending::Destroyed,
            "rotated" => Ending::Rotated,
            "revoked" => Ending::Revoked,
            "expired" => Ending::Expired,
            _ => return None,
        };
        let ago = self.ago.map(Duration::from_millis);
        Some(Gone { ending, ago })
    }

    pub(super) fn view(&self) -> &str {
        &self.view
    }

    /// The key under which the session goes on.
    pub(super) fn successor(&self) -> Result<Option<SessionKey>, StoreError> {
        if self.successor.is_empty() {
            return Ok(None);
        }
        let parts = self.successor.split_once(':');
        let parts = parts.and_then(|(tag, hash)| {
            let tag = u16::from_str_radix(tag, 16).ok()?.to_be_bytes();
            SessionKey::parse(tag, hash)
        });
        parts
            .map(Some)
            .ok_or_else(|| corrupt("a successor that is no key"))
    }

    fn owner(&self) -> Result<Option<Owner>, StoreError> {
        if self.principal.is_empty() {
            return Ok(None);
        }
        let principal = Principal::new(&self.principal);
        let principal = principal.map_err(|_| corrupt("a principal that is no name"))?;
        let ago = self.revoked_ago.map(Duration::from_millis);
        Ok(Some(Owner::new(principal, self.epoch, ago)))
    }

    fn record(self, superseded: bool) -> Result<Record, StoreError> {
        let owner = self.owner()?;
        let mut values = BTreeMap::new();
        for (name, stored) in self.rest {
            let name = String::from_utf8(name).map_err(|_| corrupt("a name that is not text"))?;
            let colon = stored.iter().position(|byte| *byte == b':');
            let colon = colon.ok_or_else(|| corrupt("a value without a version"))?;
            let value = Value {
                version: Version::new(number(&stored[..colon])?),
                bytes: Bytes::from(stored).slice(colon + 1..),
            };
            values.insert(name, value);
        }
        Ok(Record {
            version: Version::new(self.version),
            values,
            idle_left: Duration::from_millis(self.idle_left),
            absolute_left: Duration::from_millis(self.absolute_left),
            superseded,
            owner,
        })
    }
}

/// Reads the list of a principal's sessions.
pub(super) fn infos(parts: Vec<Vec<u8>>, tag: [u8; 2]) -> Result<Vec<SessionInfo>, StoreError> {
    let info = |part: &[Vec<u8>]| {
        let [hash, device, claimed, used] = part else {
            return Err(corrupt("an answer of another shape"));
        };
        let key = SessionKey::parse(tag, text(hash)?);
        let device = text(device)?;
        let ago = |part: &[u8]| {
            let ago: i64 = number(part)?;
            Ok(Duration::from_millis(u64::try_from(ago).unwrap_or(0)))
        };
        Ok(SessionInfo::new(
            key.ok_or_else(|| corrupt("a session that is no key"))?,
            (!device.is_empty()).then(|| device.to_owned()),
            ago(claimed)?,
            ago(used)?,
        ))
    };
    parts.chunks(4).map(info).collect()
}

/// Reads the epoch that was drawn.
pub(super) fn epoch(parts: &[Vec<u8>]) -> Result<u64, StoreError> {
    match parts {
        [epoch] => number(epoch),
        _ => Err(corrupt("an answer of another shape")),
    }
}

fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt { store: NAME, what }
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| corrupt("a field that is not text"))
}

fn number<T: FromStr>(bytes: &[u8]) -> Result<T, StoreError> {
    text(bytes)?
        .parse()
        .map_err(|_| corrupt("a field that is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error_and_no_panic() {
        for bad in [
            &[][..],
            &["live"],
            &[
                "live", "1", "x", "0", "0", "0", "0", "", "", "0", "-1", "0", "0",
            ],
            &[
                "live", "1", "1", "0", "0", "0", "0", "", "", "0", "-1", "0", "0", "name",
            ],
        ] {
            assert!(Reply::parse(parts(bad)).is_err(), "{bad:?}");
        }
        let unversioned = [
            "live", "1", "1", "0", "0", "0", "0", "", "", "0", "-1", "0", "0", "name", "value",
        ];
        let reply = Reply::parse(parts(&unversioned)).unwrap();
        assert!(matches!(reply.stored(), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_future_format_is_an_error_and_not_a_missing_session() {
        let reply = Reply::parse(parts(&[
            "format", "2", "1", "0", "0", "0", "0", "", "", "0", "-1", "0", "0",
        ]))
        .unwrap();
        assert!(matches!(
            reply.stored(),
            Err(StoreError::Format { found: 2 })
        ));
    }
}
