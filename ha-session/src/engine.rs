//! The rules by which a stored session changes. Every store follows them: the memory store by calling this module,
//! Redis by a script and PostgreSQL by a function that say the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Owner, Principal};
use crate::record::{Change, Patch, Record, Value, Version};
use crate::store::{Commit, Ending, Gone, Outcome, ROTATION_GRACE};

/// How long the end of a session is remembered: an hour, longer than any request lasts.
pub(crate) const TOMBSTONE_MS: u64 = 3_600_000;

/// A session as it is stored. All times are milliseconds on the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) version: Version,
    pub(crate) state: State,
    pub(crate) idle_until: u64,
    pub(crate) absolute_until: u64,
    /// When it was used last.
    pub(crate) used: u64,
    pub(crate) values: BTreeMap<String, Value>,
    pub(crate) owned: Option<Owned>,
}

/// Whose an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) principal: Principal,
    pub(crate) epoch: u64,
    pub(crate) device: Option<String>,
    pub(crate) claimed: u64,
}

/// The newest revocation of all sessions of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revocation {
    pub(crate) epoch: u64,
    pub(crate) at: u64,
}

impl Revocation {
    /// The one that follows `last`. Drawn as versions are, so that it outranks one that a failover lost.
    pub(crate) fn next(last: Option<Self>, now: u64) -> Self {
        let last = last.map_or(Version::ZERO, |last| Version::new(last.epoch));
        Self {
            epoch: last.next(now).get(),
            at: now,
        }
    }
}

/// Where the revocations of principals are found.
pub(crate) type Revocations<'a> = &'a dyn Fn(&Principal) -> Option<Revocation>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// The session went on under another id.
    Rotated {
        at: u64,
        to: SessionKey,
    },
    Destroyed {
        at: u64,
    },
}

/// How an entry looks at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Live,
    Superseded,
    Gone(Gone),
}

impl Entry {
    fn new(now: u64, expiry: Expiry) -> Self {
        let absolute_until = now + millis(expiry.absolute());
        Self {
            version: Version::ZERO,
            state: State::Live,
            idle_until: absolute_until.min(now + millis(expiry.idle())),
            absolute_until,
            used: now,
            values: BTreeMap::new(),
            owned: None,
        }
    }

    pub(crate) fn view(&self, now: u64, revocations: Revocations<'_>) -> View {
        let gone = |ending, at: u64| {
            View::Gone(Gone {
                ending,
                ago: Some(Duration::from_millis(now.saturating_sub(at))),
            })
        };
        let ends = self.idle_until.min(self.absolute_until);
        let owned = self.owned.as_ref();
        let revoked = owned.and_then(|owned| {
            revocations(&owned.principal).filter(|revocation| owned.epoch < revocation.epoch)
        });
        match (self.state, revoked) {
            (State::Destroyed { at }, _) => gone(Ending::Destroyed, at),
            (State::Rotated { at, .. }, _) if now >= at + millis(ROTATION_GRACE) => {
                gone(Ending::Rotated, at)
            }
            (_, Some(revocation)) => gone(Ending::Revoked, revocation.at),
            _ if now >= ends => gone(Ending::Expired, ends),
            (State::Rotated { .. }, None) => View::Superseded,
            (State::Live, None) => View::Live,
        }
    }

    /// The key under which the session goes on, while the old one still leads there.
    pub(crate) fn successor(&self, now: u64) -> Option<SessionKey> {
        let ends = self.idle_until.min(self.absolute_until);
        match self.state {
            State::Rotated { at, to } if now < ends.min(at + millis(ROTATION_GRACE)) => Some(to),
            _ => None,
        }
    }

    pub(crate) fn record(&self, now: u64, revocations: Revocations<'_>) -> Record {
        Record {
            version: self.version,
            values: self.values.clone(),
            idle_left: Duration::from_millis(self.idle_until.saturating_sub(now)),
            absolute_left: Duration::from_millis(self.absolute_until.saturating_sub(now)),
            superseded: !matches!(self.state, State::Live),
            owner: self.owned.as_ref().map(|owned| {
                let revoked = revocations(&owned.principal);
                let ago = revoked.map(|last| Duration::from_millis(now.saturating_sub(last.at)));
                Owner::new(owned.principal.clone(), owned.epoch, ago)
            }),
        }
    }

    /// Whether nobody can need this entry any more.
    pub(crate) fn is_forgettable(&self, now: u64) -> bool {
        let end = match self.state {
            State::Live => self.idle_until.min(self.absolute_until),
            State::Rotated { at, .. } | State::Destroyed { at } => at,
        };
        now >= end.saturating_add(TOMBSTONE_MS)
    }

    pub(crate) fn touch(&mut self, expiry: Expiry, now: u64, revocations: Revocations<'_>) {
        if self.view(now, revocations) == View::Live {
            self.used = now;
            self.idle_until = self.absolute_until.min(now + millis(expiry.idle()));
        }
    }

    pub(crate) fn destroy(&mut self, now: u64) {
        if !matches!(self.state, State::Destroyed { .. }) {
            self.state = State::Destroyed { at: now };
            self.version = self.version.next(now);
            self.values.clear();
        }
    }

    fn apply(&mut self, patch: &Patch, expiry: Expiry, now: u64) {
        self.version = self.version.next(now);
        for (name, change) in patch.iter() {
            match change {
                Change::Set(bytes) => {
                    let value = Value {
                        version: self.version,
                        bytes: bytes.clone(),
                    };
                    self.values.insert(name.to_owned(), value);
                }
                Change::Remove => {
                    self.values.remove(name);
                }
            }
        }
        self.used = now;
        self.idle_until = self.absolute_until.min(now + millis(expiry.idle()));
    }
}

/// What a commit leads to: the outcome, and the entries to store under [`Commit::key`] and [`Commit::rotate_to`].
pub(crate) struct Step {
    pub(crate) outcome: Outcome,
    pub(crate) writes: Vec<(SessionKey, Entry)>,
}

impl Step {
    fn refuse(outcome: Outcome) -> Self {
        Self {
            outcome,
            writes: Vec::new(),
        }
    }
}

/// Decides a commit against what is stored under [`Commit::key`].
pub(crate) fn commit(
    stored: Option<&Entry>,
    commit: &Commit,
    revocations: Revocations<'_>,
    now: u64,
) -> Step {
    let base = match stored.map(|entry| (entry, entry.view(now, revocations))) {
        None if commit.create => Entry::new(now, commit.expiry),
        None => return Step::refuse(Outcome::Gone(Gone::MISSING)),
        Some((_, View::Gone(gone))) => return Step::refuse(Outcome::Gone(gone)),
        Some((_, View::Superseded)) => return Step::refuse(Outcome::Superseded),
        Some((entry, View::Live)) => entry.clone(),
    };
    if is_overtaken(commit, revocations, now) {
        return Step::refuse(Outcome::Overtaken);
    }
    let patch = match admitted(&base.values, commit) {
        Ok(patch) => patch,
        Err(keys) => return Step::refuse(Outcome::Conflict { keys }),
    };
    let bytes = base.record(now, revocations).size_with(&patch);
    if bytes > commit.max_bytes {
        return Step::refuse(Outcome::TooLarge { bytes });
    }
    let mut next = base.clone();
    next.apply(&patch, commit.expiry, now);
    if let Some(claim) = &commit.claim {
        next.owned = Some(Owned {
            principal: claim.principal.clone(),
            epoch: revocations(&claim.principal).map_or(0, |revocation| revocation.epoch),
            device: claim.device.clone(),
            claimed: now,
        });
    }
    let outcome = Outcome::Committed(next.record(now, revocations));
    let writes = match commit.rotate_to {
        None => vec![(commit.key, next)],
        Some(successor) => {
            let old = Entry {
                state: State::Rotated {
                    at: now,
                    to: successor,
                },
                version: next.version,
                ..base
            };
            vec![(commit.key, old), (successor, next)]
        }
    };
    Step { outcome, writes }
}

/// Whether what a sign-in checked may have been revoked while it was under way. Two durations are compared, each on one clock: in
/// doubt it was.
fn is_overtaken(commit: &Commit, revocations: Revocations<'_>, now: u64) -> bool {
    let (Some(claim), Some(began_ago)) = (&commit.claim, commit.began_ago) else {
        return false;
    };
    revocations(&claim.principal).is_some_and(|last| {
        last.epoch != commit.knows && now.saturating_sub(last.at) <= millis(began_ago)
    })
}

/// The patch without what gives way to changes that somebody else made since they were seen.
///
/// # Errors
/// The names that refuse the commit.
pub(crate) fn admitted<'a>(
    values: &BTreeMap<String, Value>,
    commit: &'a Commit,
) -> Result<Cow<'a, Patch>, Vec<String>> {
    let stored = |name: &String| {
        values
            .get(name)
            .map_or(Version::ZERO, |value| value.version)
    };
    let expected = commit.expected.iter().flatten();
    let changed = expected.filter(|(name, seen)| stored(name) != **seen);
    let (given_way, refused): (Vec<&String>, Vec<&String>) = changed
        .map(|(name, _)| name)
        .partition(|name| commit.yields.contains(*name));
    if !refused.is_empty() {
        return Err(refused.into_iter().cloned().collect());
    }
    let mut patch = Cow::Borrowed(&commit.patch);
    for name in given_way {
        patch.to_mut().forget(name);
    }
    Ok(patch)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
