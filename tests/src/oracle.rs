//! A judge of histories: which acknowledged writes were lost, which reads were stale, what appeared
//! out of nothing and what was applied twice.
//!
//! The oracle knows no server. Clients tell it what they asked for and what they were answered, with
//! the times of both, and at the end what the store really holds. It judges one collection: a set of
//! unique keys that clients add and list. Four promises are checked:
//!
//! | promise | violated by |
//! |---|---|
//! | an acknowledged write stays | a key that was acknowledged and is not in the store at the end: [`Violation::Lost`] |
//! | a client sees its own writes and never goes back in time | a read that misses a key this client had acknowledged, or had read, before the read began: [`Violation::Stale`] |
//! | nothing is invented | a key that nobody wrote, that was refused, that was read before it was written, or that was read and is gone at the end although it was never acknowledged: [`Violation::Phantom`] |
//! | a write is applied at most once | a key that is there more than once: [`Violation::Duplicated`] |
//!
//! A write without an answer is *unknown*: it may be there or not, both are right, but still at most
//! once. A write that was never closed counts as unknown.
//!
//! ```
//! use ha_testbed::oracle::{Oracle, Violation};
//! use std::time::{Duration, Instant};
//!
//! let start = Instant::now();
//! let at = |ms| start + Duration::from_millis(ms);
//! let mut oracle = Oracle::new();
//! oracle.invoke("ann", "note-1", at(0));
//! oracle.acknowledge("note-1", at(5));
//! // The read began after the acknowledgement and does not show the note.
//! let found = oracle.read("ann", at(6), at(7), [""; 0]);
//! assert!(matches!(found[0], Violation::Stale { .. }));
//! // The store at the end does.
//! let verdict = oracle.settle(["note-1"]);
//! assert_eq!((verdict.lost(), verdict.stale()), (0, 1));
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// What became of a write, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// No answer: it may have been applied.
    Unknown,
    /// Answered with success at this time.
    Acknowledged(Instant),
    /// Answered with a refusal that promises that nothing was changed.
    Refused,
}

#[derive(Debug)]
struct Write {
    client: Arc<str>,
    invoked: Instant,
    outcome: Outcome,
}

/// What one client is entitled to see.
#[derive(Debug, Default)]
struct View {
    /// Acknowledged to this client, by the time of the acknowledgement.
    acknowledged: BTreeMap<Instant, Vec<Arc<str>>>,
    /// First shown to this client, by the time the showing read returned.
    seen: BTreeMap<Instant, Vec<Arc<str>>>,
    seen_keys: HashSet<Arc<str>>,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The key was acknowledged and the store does not hold it.
    Lost {
        /// Whose write it was.
        client: String,
        /// The key.
        key: String,
    },
    /// One read that missed keys its client had a right to see. Counted once per read.
    Stale {
        /// Who read.
        client: String,
        /// Keys this client had acknowledged before the read began.
        own_writes: Vec<String>,
        /// Keys an earlier read of this client had returned before this one began.
        gone_back: Vec<String>,
    },
    /// The key has no right to exist, or to have been seen.
    Phantom {
        /// The key.
        key: String,
        /// Why.
        reason: PhantomReason,
    },
    /// The key is there more than once.
    Duplicated {
        /// The key.
        key: String,
        /// How many times.
        times: usize,
    },
}

/// Why a key is a phantom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PhantomReason {
    /// Nobody ever wrote it, or it was read before anybody did.
    NeverWritten,
    /// Its write was answered with a refusal, and it is there all the same.
    Refused,
    /// A read returned it, its write was never acknowledged, and the store does not hold it.
    Vanished,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { client, key } => {
                write!(f, "lost: `{key}` was acknowledged to {client} and is gone")
            }
            Self::Stale {
                client,
                own_writes,
                gone_back,
            } => {
                write!(f, "stale: a read by {client}")?;
                if let Some(first) = own_writes.first() {
                    write!(
                        f,
                        " misses {} own writes, first `{first}`",
                        own_writes.len()
                    )?;
                }
                if let Some(first) = gone_back.first() {
                    write!(
                        f,
                        " misses {} keys it had read, first `{first}`",
                        gone_back.len()
                    )?;
                }
                Ok(())
            }
            Self::Phantom { key, reason } => {
                let reason = match reason {
                    PhantomReason::NeverWritten => "was never written",
                    PhantomReason::Refused => "was refused and is there",
                    PhantomReason::Vanished => "was read, was never acknowledged and is gone",
                };
                write!(f, "phantom: `{key}` {reason}")
            }
            Self::Duplicated { key, times } => {
                write!(f, "duplicated: `{key}` is there {times} times")
            }
        }
    }
}

/// The sum of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every violation, those of reads first, in the order they were found.
    pub violations: Vec<Violation>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes without an answer that the store holds.
    pub unknown_applied: usize,
    /// Writes without an answer that the store does not hold.
    pub unknown_absent: usize,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// How many acknowledged writes are gone.
    pub fn lost(&self) -> usize {
        self.count(|violation| matches!(violation, Violation::Lost { .. }))
    }

    /// How many reads were stale.
    pub fn stale(&self) -> usize {
        self.count(|violation| matches!(violation, Violation::Stale { .. }))
    }

    /// How many keys were seen, or are there, without a right to be.
    pub fn phantom(&self) -> usize {
        self.count(|violation| matches!(violation, Violation::Phantom { .. }))
    }

    /// How many keys were seen, or are there, more than once.
    pub fn duplicated(&self) -> usize {
        self.count(|violation| matches!(violation, Violation::Duplicated { .. }))
    }

    fn count(&self, which: impl Fn(&Violation) -> bool) -> usize {
        self.violations
            .iter()
            .filter(|violation| which(violation))
            .count()
    }
}

/// Records a history and judges it.
///
/// Reads are judged as they are told; losses only when [`Oracle::settle`] says what the store holds.
/// The memory it takes grows with the number of writes, not of reads.
#[derive(Debug, Default)]
pub struct Oracle {
    writes: HashMap<Arc<str>, Write>,
    views: HashMap<Arc<str>, View>,
    /// Keys already reported, so that a key that stays duplicated in a hundred reads counts once.
    duplicated: HashSet<Arc<str>>,
    phantoms: BTreeSet<(String, PhantomReason)>,
    violations: Vec<Violation>,
}

impl Oracle {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// `client` starts to write `key`. Trying the same write again under the same key is not a new
    /// write: call this once, before the first attempt.
    ///
    /// # Panics
    /// When the key was invoked before: keys are how writes are told apart.
    pub fn invoke(&mut self, client: &str, key: &str, at: Instant) {
        let client: Arc<str> = client.into();
        let write = Write {
            client,
            invoked: at,
            outcome: Outcome::Unknown,
        };
        let earlier = self.writes.insert(key.into(), write);
        assert!(earlier.is_none(), "key `{key}` was invoked twice");
    }

    /// The write of `key` was answered with success.
    ///
    /// # Panics
    /// When the key was never invoked.
    pub fn acknowledge(&mut self, key: &str, at: Instant) {
        let (key, write) = self
            .writes
            .remove_entry(key)
            .expect("acknowledged keys were invoked");
        let client = Arc::clone(&write.client);
        self.views
            .entry(client)
            .or_default()
            .acknowledged
            .entry(at)
            .or_default()
            .push(key.clone());
        self.writes.insert(
            key,
            Write {
                outcome: Outcome::Acknowledged(at),
                ..write
            },
        );
    }

    /// The write of `key` was answered with a refusal that promises that nothing was changed.
    ///
    /// # Panics
    /// When the key was never invoked.
    pub fn refuse(&mut self, key: &str) {
        self.writes
            .get_mut(key)
            .expect("refused keys were invoked")
            .outcome = Outcome::Refused;
    }

    /// The write of `key` ended without an answer. This is also what a write is until told otherwise.
    ///
    /// # Panics
    /// When the key was never invoked.
    pub fn unknown(&mut self, key: &str) {
        self.writes
            .get_mut(key)
            .expect("unknown keys were invoked")
            .outcome = Outcome::Unknown;
    }

    /// `client` listed the collection: it asked at `invoked`, was answered at `returned`, with `keys`.
    /// Returns what this read alone proves wrong; the same goes into the verdict.
    pub fn read<K: AsRef<str>>(
        &mut self,
        client: &str,
        invoked: Instant,
        returned: Instant,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Violation> {
        let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
        for key in keys {
            *counts.entry(key.as_ref().into()).or_default() += 1;
        }
        let mut found = self.repeated(&counts);
        for key in counts.keys() {
            let reason = match self.writes.get(key) {
                Some(write) if write.invoked > returned => PhantomReason::NeverWritten,
                Some(write) if write.outcome == Outcome::Refused => PhantomReason::Refused,
                Some(_) => continue,
                None => PhantomReason::NeverWritten,
            };
            found.extend(self.phantom(key, reason));
        }

        let view = self.views.entry(client.into()).or_default();
        let missing = |known: &BTreeMap<Instant, Vec<Arc<str>>>| -> Vec<String> {
            // Strictly before: at the same instant the order is not known.
            let known = known.range(..invoked).flat_map(|(_, keys)| keys);
            known
                .filter(|key| !counts.contains_key(*key))
                .map(ToString::to_string)
                .collect()
        };
        let own_writes = missing(&view.acknowledged);
        let mut gone_back = missing(&view.seen);
        gone_back.retain(|key| !own_writes.contains(key));
        if !own_writes.is_empty() || !gone_back.is_empty() {
            found.push(Violation::Stale {
                client: client.into(),
                own_writes,
                gone_back,
            });
        }
        for key in counts.into_keys() {
            if view.seen_keys.insert(key.clone()) {
                view.seen.entry(returned).or_default().push(key);
            }
        }
        self.violations.extend(found.iter().cloned());
        found
    }

    /// The store holds exactly `truth`, read after every write had come to its end: the verdict.
    pub fn settle<K: AsRef<str>>(mut self, truth: impl IntoIterator<Item = K>) -> Verdict {
        let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
        for key in truth {
            *counts.entry(key.as_ref().into()).or_default() += 1;
        }
        let mut found = self.repeated(&counts);
        let mut strangers: Vec<_> = counts.keys().cloned().collect();
        strangers.sort();
        for key in strangers {
            let reason = match self.writes.get(&key).map(|write| write.outcome) {
                None => PhantomReason::NeverWritten,
                Some(Outcome::Refused) => PhantomReason::Refused,
                Some(_) => continue,
            };
            found.extend(self.phantom(&key, reason));
        }

        let mut verdict = Verdict::default();
        let mut vanished = Vec::new();
        let mut lost = Vec::new();
        for (key, write) in &self.writes {
            match (write.outcome, counts.contains_key(key)) {
                (Outcome::Acknowledged(_), true) => verdict.acknowledged += 1,
                (Outcome::Acknowledged(_), false) => {
                    verdict.acknowledged += 1;
                    lost.push((key.to_string(), write.client.to_string()));
                }
                (Outcome::Unknown, true) => verdict.unknown_applied += 1,
                (Outcome::Unknown, false) => {
                    verdict.unknown_absent += 1;
                    if self.views.values().any(|view| view.seen_keys.contains(key)) {
                        vanished.push(Arc::clone(key));
                    }
                }
                (Outcome::Refused, _) => {}
            }
        }
        lost.sort();
        vanished.sort();
        found.extend(
            lost.into_iter()
                .map(|(key, client)| Violation::Lost { client, key }),
        );
        for key in vanished {
            found.extend(self.phantom(&key, PhantomReason::Vanished));
        }
        verdict.violations = self.violations;
        verdict.violations.extend(found);
        verdict
    }

    fn repeated(&mut self, counts: &HashMap<Arc<str>, usize>) -> Vec<Violation> {
        let mut found: Vec<_> = counts.iter().filter(|(_, times)| **times > 1).collect();
        found.sort();
        let new = |(key, _): &(&Arc<str>, &usize)| self.duplicated.insert(Arc::clone(key));
        let new = found.into_iter().filter(new);
        new.map(|(key, times)| Violation::Duplicated {
            key: key.to_string(),
            times: *times,
        })
        .collect()
    }

    fn phantom(&mut self, key: &str, reason: PhantomReason) -> Option<Violation> {
        let new = self.phantoms.insert((key.to_owned(), reason));
        new.then(|| Violation::Phantom {
            key: key.to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests;
