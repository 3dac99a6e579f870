//! What happens when two requests under way at the same time change the same value: a policy for each name.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{ConfigError, SessionError};
use crate::record::{Patch, Record, Version};
use crate::value::check_name;

/// What happens when two requests under way at the same time change the same value.
///
/// A request conflicts only where it has read the session before it writes: one that writes without reading has seen nothing that
/// could have changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// The commit that comes last wins. The default, because it needs no read.
    #[default]
    LastWriter,
    /// The commit that comes first wins: what the later one would write under this name is dropped, and the rest of it is stored. For
    /// what is settled once, such as the language or an experiment's group.
    FirstWriter,
    /// The later commit is refused as a whole with [`SessionError::Conflict`]. For what is counted or moved on step by step.
    Refuse,
}

/// The policies of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conflicts {
    pub(crate) default: OnConflict,
    pub(crate) names: BTreeMap<String, OnConflict>,
}

impl Conflicts {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for name in self.names.keys() {
            if let Err(SessionError::BadName { key }) = check_name(name) {
                return Err(ConfigError::ValueName { name: key });
            }
        }
        Ok(())
    }

    pub(crate) fn of(&self, name: &str) -> OnConflict {
        self.names.get(name).copied().unwrap_or(self.default)
    }

    /// What a commit of `patch` has to meet after its request saw `seen`, and which of the names give way where it does not.
    pub(crate) fn expected(
        &self,
        patch: &Patch,
        seen: &Record,
    ) -> Option<(BTreeMap<String, Version>, BTreeSet<String>)> {
        let mut expected = BTreeMap::new();
        let mut yields = BTreeSet::new();
        for (name, _) in patch.iter() {
            let policy = self.of(name);
            if policy == OnConflict::LastWriter {
                continue;
            }
            let value = seen.values.get(name);
            let version = value.map_or(Version::ZERO, |value| value.version);
            expected.insert(name.to_owned(), version);
            if policy == OnConflict::FirstWriter {
                yields.insert(name.to_owned());
            }
        }
        (!expected.is_empty()).then_some((expected, yields))
    }
}
