//! What a session holds, and how a request changes it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::principal::Owner;

/// The format of stored sessions that this version writes. It reads this one and refuses newer ones as unknown.
pub const FORMAT: u8 = 1;

/// How new a session state is. Every commit of a session has a higher version than the one before.
///
/// A store draws it as the larger of "one more than before" and its own clock in milliseconds, so that a commit made
/// after a failover that lost some commits still outranks the lost ones in caches that saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u64);

impl Version {
    /// Below every version that a store draws.
    pub const ZERO: Self = Self(0);

    /// The version with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version that follows this one when the store's clock reads `now_ms`.
    #[must_use]
    pub fn next(self, now_ms: u64) -> Self {
        Self(self.0.saturating_add(1).max(now_ms))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One stored value and the version of the commit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The commit that wrote it.
    pub version: Version,
    /// The encoded value.
    pub bytes: Bytes,
}

/// A session as a store returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The newest commit.
    pub version: Version,
    /// The values by name.
    pub values: BTreeMap<String, Value>,
    /// How long until the session ends if nobody uses it, on the store's clock.
    pub idle_left: Duration,
    /// How long until the session ends whatever happens, on the store's clock.
    pub absolute_left: Duration,
    /// Whether the id was rotated away a moment ago: the values are those from before the rotation and nothing can
    /// be written under this id any more.
    pub superseded: bool,
    /// Whose it is, once somebody has signed in.
    pub owner: Option<Owner>,
}

impl Record {
    /// A live session that is nobody's, for stores of your own.
    #[must_use]
    pub fn new(
        version: Version,
        values: BTreeMap<String, Value>,
        idle_left: Duration,
        absolute_left: Duration,
    ) -> Self {
        Self {
            version,
            values,
            idle_left,
            absolute_left,
            superseded: false,
            owner: None,
        }
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        size(self.values.iter().map(|(name, value)| (name, &value.bytes)))
    }

    /// The size after `patch`.
    #[must_use]
    pub fn size_with(&self, patch: &Patch) -> usize {
        let kept = self
            .values
            .iter()
            .filter(|(name, _)| patch.get(name).is_none())
            .map(|(name, value)| (name, &value.bytes));
        size(kept) + patch.size()
    }
}

fn size<'a>(values: impl Iterator<Item = (&'a String, &'a Bytes)>) -> usize {
    values.map(|(name, bytes)| name.len() + bytes.len()).sum()
}

/// What a request did to one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write these bytes.
    Set(Bytes),
    /// Remove the value.
    Remove,
}

/// The values that a request changed, and only those: what other requests changed meanwhile is not in it and is not
/// overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    changes: BTreeMap<String, Change>,
}

impl Patch {
    /// A patch that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `bytes` under `name`.
    pub fn set(&mut self, name: impl Into<String>, bytes: impl Into<Bytes>) {
        self.changes.insert(name.into(), Change::Set(bytes.into()));
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: impl Into<String>) {
        self.changes.insert(name.into(), Change::Remove);
    }

    /// What this patch does to `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Change> {
        self.changes.get(name)
    }

    /// Every change, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.changes
            .iter()
            .map(|(name, change)| (name.as_str(), change))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of the names and values that it writes.
    #[must_use]
    pub fn size(&self) -> usize {
        size(
            self.changes
                .iter()
                .filter_map(|(name, change)| match change {
                    Change::Set(bytes) => Some((name, bytes)),
                    Change::Remove => None,
                }),
        )
    }

    /// Leaves `name` as it is.
    pub(crate) fn forget(&mut self, name: &str) {
        self.changes.remove(name);
    }

    /// Whether `record` holds what this patch writes, and nothing that it removes.
    pub(crate) fn is_in(&self, record: &Record) -> bool {
        self.changes.iter().all(|(name, change)| {
            let stored = record.values.get(name).map(|value| &value.bytes);
            match change {
                Change::Set(bytes) => stored == Some(bytes),
                Change::Remove => stored.is_none(),
            }
        })
    }

    /// Forgets the changes that `done` made as well, and keeps those that came after it.
    pub(crate) fn subtract(&mut self, done: &Self) {
        self.changes
            .retain(|name, change| done.changes.get(name) != Some(change));
    }

    pub(crate) fn clear(&mut self) {
        self.changes.clear();
    }
}
