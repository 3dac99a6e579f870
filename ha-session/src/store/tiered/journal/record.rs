//! What is written ahead, as bytes. Pure: no file is touched here.
//!
//! A record is `"HaJ1"`, the length of its body, the CRC-32C of the body, and the body: a format byte and MessagePack. Numbers are little
//! endian. Whatever is damaged is skipped up to the next record that is whole: a half-written tail, a flipped bit or a lost block
//! costs what it hit and nothing else.

use std::fmt;

use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::SessionKey;
use crate::record::Version;

const MAGIC: [u8; 4] = *b"HaJ1";
const HEAD: usize = MAGIC.len() + 4 + 4;
/// The format that this version writes. It reads this one only.
const FORMAT: u8 = 1;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What PostgreSQL has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Changed(Changes),
    Ended(SessionKey),
}

/// What a commit made of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) key: SessionKey,
    pub(crate) version: Version,
    /// PostgreSQL has never heard of the session, so that this holds all of it.
    pub(crate) born: bool,
    /// How long it lives unused, and at most, from the commit on; milliseconds.
    pub(crate) idle_ms: u64,
    pub(crate) absolute_ms: u64,
    /// Name, the version of the commit that changed it, and what it holds now if anything.
    pub(crate) values: Vec<(String, Version, Option<Bytes>)>,
}

/// The body as it is written.
#[derive(Serialize, Deserialize)]
enum Body {
    Changed {
        tag: [u8; 2],
        hash: [u8; 32],
        version: u64,
        born: bool,
        idle_ms: u64,
        absolute_ms: u64,
        values: Vec<(String, u64, Option<Blob>)>,
    },
    Ended {
        tag: [u8; 2],
        hash: [u8; 32],
    },
}

/// Bytes that are written as such, and not as a list of numbers.
struct Blob(Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bin;
        impl Visitor<'_> for Bin {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Bin)
    }
}

/// The record of an entry. `None` for one that is too large to be written, which no session is.
pub(crate) fn encode(entry: &Entry) -> Option<Vec<u8>> {
    let body = match entry {
        Entry::Changed(changes) => Body::Changed {
            tag: changes.key.tag(),
            hash: *changes.key.hash(),
            version: changes.version.get(),
            born: changes.born,
            idle_ms: changes.idle_ms,
            absolute_ms: changes.absolute_ms,
            values: changes
                .values
                .iter()
                .map(|(name, version, bytes)| {
                    (name.clone(), version.get(), bytes.clone().map(Blob))
                })
                .collect(),
        },
        Entry::Ended(key) => Body::Ended {
            tag: key.tag(),
            hash: *key.hash(),
        },
    };
    let mut bytes = vec![0; HEAD];
    bytes.push(FORMAT);
    rmp_serde::encode::write(&mut bytes, &body).ok()?;
    let (head, body) = bytes.split_at_mut(HEAD);
    head[..4].copy_from_slice(&MAGIC);
    head[4..8].copy_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    head[8..].copy_from_slice(&CRC.checksum(body).to_le_bytes());
    Some(bytes)
}

fn decode(body: &[u8]) -> Result<Entry, Damage> {
    let (&format, rest) = body.split_first().ok_or(Damage::Garbled)?;
    if format != FORMAT {
        return Err(Damage::Format { found: format });
    }
    let body: Body = rmp_serde::from_slice(rest).map_err(|_| Damage::Garbled)?;
    Ok(match body {
        Body::Changed {
            tag,
            hash,
            version,
            born,
            idle_ms,
            absolute_ms,
            values,
        } => Entry::Changed(Changes {
            key: SessionKey::from_parts(tag, hash),
            version: Version::new(version),
            born,
            idle_ms,
            absolute_ms,
            values: values
                .into_iter()
                .map(|(name, version, bytes)| {
                    (name, Version::new(version), bytes.map(|blob| blob.0))
                })
                .collect(),
        }),
        Body::Ended { tag, hash } => Entry::Ended(SessionKey::from_parts(tag, hash)),
    })
}

/// Why a part of a journal is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// Not a whole record: cut off, or changed since it was written.
    #[error("a record that is cut off or garbled")]
    Garbled,
    /// Whole, and of a version that this one does not know.
    #[error("a record of format {found}, this version reads {FORMAT}")]
    Format { found: u8 },
}

/// The records in `bytes`, one after the other, each with where it ends; and where something was skipped, what for.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The body of the whole record at `at`, and where it ends.
    fn whole(&self, at: usize) -> Option<(&'a [u8], usize)> {
        let (head, rest) = self.bytes.get(at..)?.split_at_checked(HEAD)?;
        let number = |from: usize| {
            let four = head.get(from..from + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(four))
        };
        let len = usize::try_from(number(4)?).ok()?;
        let body = rest.get(..len)?;
        let whole = head.starts_with(&MAGIC) && CRC.checksum(body) == number(8)?;
        whole.then_some((body, at + HEAD + len))
    }
}

impl Iterator for Records<'_> {
    type Item = (usize, Result<Entry, Damage>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if let Some((body, end)) = self.whole(self.at) {
            self.at = end;
            return Some((end, decode(body)));
        }
        // To the next place where a whole record begins.
        let rest = self.at + 1..self.bytes.len();
        self.at = rest
            .into_iter()
            .find(|at| self.bytes[*at..].starts_with(&MAGIC) && self.whole(*at).is_some())
            .unwrap_or(self.bytes.len());
        Some((self.at, Err(Damage::Garbled)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let key = (any::<[u8; 2]>(), any::<[u8; 32]>());
        let key = key.prop_map(|(tag, hash)| SessionKey::from_parts(tag, hash));
        // What a record begins with may stand in a value as well.
        let bytes = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            Just([&MAGIC[..], &[3, 0, 0, 0], &MAGIC].concat()),
        ];
        let value = (".{0,12}", any::<u64>(), prop::option::of(bytes));
        let value = value.prop_map(|(name, version, bytes)| {
            (name, Version::new(version), bytes.map(Bytes::from))
        });
        let values = prop::collection::vec(value, 0..5);
        let times = (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>());
        prop_oneof![
            key.clone().prop_map(Entry::Ended),
            (key, times, values).prop_map(
                |(key, (version, idle_ms, absolute_ms, born), values)| {
                    let version = Version::new(version);
                    Entry::Changed(Changes {
                        key,
                        version,
                        born,
                        idle_ms,
                        absolute_ms,
                        values,
                    })
                }
            ),
        ]
    }

    fn found(bytes: &[u8]) -> (Vec<Entry>, Vec<Damage>) {
        let (mut entries, mut damages) = (Vec::new(), Vec::new());
        for (_, record) in Records::of(bytes) {
            match record {
                Ok(entry) => entries.push(entry),
                Err(damage) => damages.push(damage),
            }
        }
        (entries, damages)
    }

    /// What happens to bytes on a disk.
    #[derive(Debug, Clone)]
    enum Fault {
        Flip { bit: u8 },
        Cut,
        Lose { len: usize },
        Add { bytes: Vec<u8> },
    }

    fn fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            (0u8..8).prop_map(|bit| Fault::Flip { bit }),
            Just(Fault::Cut),
            (1usize..60).prop_map(|len| Fault::Lose { len }),
            prop::collection::vec(any::<u8>(), 1..60).prop_map(|bytes| Fault::Add { bytes }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in prop::collection::vec(entry(), 0..12)) {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| encode(entry).unwrap()).collect();
            prop_assert_eq!(found(&bytes), (entries, Vec::new()));
        }

        #[test]
        fn a_fault_costs_what_it_hits_and_nothing_else(
            entries in prop::collection::vec(entry(), 1..12), place in any::<prop::sample::Index>(), fault in fault(),
        ) {
            let records: Vec<Vec<u8>> = entries.iter().map(|entry| encode(entry).unwrap()).collect();
            let mut bytes = records.concat();
            let at = place.index(bytes.len());
            let hit = match &fault {
                Fault::Flip { bit } => {
                    bytes[at] ^= 1 << bit;
                    at..at + 1
                }
                Fault::Cut => {
                    let hit = at..bytes.len();
                    bytes.truncate(at);
                    hit
                }
                Fault::Lose { len } => {
                    let hit = at..(at + len).min(bytes.len());
                    bytes.drain(hit.clone());
                    hit
                }
                Fault::Add { bytes: added } => {
                    bytes.splice(at..at, added.iter().copied());
                    // Between two records it hits neither.
                    at..at
                }
            };
            let mut begin = 0;
            let mut spared = Vec::new();
            for (entry, record) in entries.iter().zip(&records) {
                let end = begin + record.len();
                let inside = hit.is_empty() && begin < at && at < end;
                if !inside && (end <= hit.start || begin >= hit.end) {
                    spared.push(entry.clone());
                }
                begin = end;
            }
            let (read, damages) = found(&bytes);
            let mut rest = read.iter();
            for entry in &spared {
                prop_assert!(rest.any(|read| read == entry), "lost, or out of order");
            }
            for entry in &read {
                prop_assert!(entries.contains(entry), "made up: {entry:?}");
            }
            let all_there = read.len() == entries.len();
            let cut = matches!(fault, Fault::Cut | Fault::Lose { .. });
            prop_assert!(all_there || cut || !damages.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            found(&bytes);
        }
    }

    #[test]
    fn a_record_of_a_later_format_is_reported_and_the_next_one_read() {
        let key = SessionKey::from_parts([1, 2], [3; 32]);
        let known = encode(&Entry::Ended(key)).unwrap();
        let mut later = known.clone();
        later[HEAD] = 9;
        let crc = CRC.checksum(&later[HEAD..]);
        later[8..12].copy_from_slice(&crc.to_le_bytes());
        let bytes = [&known[..], &later, &known].concat();
        let (entries, damages) = found(&bytes);
        assert_eq!(entries, [Entry::Ended(key), Entry::Ended(key)]);
        assert_eq!(damages, [Damage::Format { found: 9 }]);
    }
}
