//! A store against the memory store: the same steps must have the same outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Bench, MAX_BYTES, Violation};
use crate::id::SessionKey;
use crate::principal::{Claim, Principal, SessionInfo};
use crate::record::{Patch, Record, Version};
use crate::store::{Commit, Ending, Gone, Load, MemoryStore, Outcome, Store};

const NAMES: [&str; 5] = ["a", "b", "name with space", "ünïcode:\"quoted\"", "k:x"];

fn patch(rng: &mut fastrand::Rng) -> Patch {
    let mut patch = Patch::new();
    for _ in 0..rng.usize(0..4) {
        let name = NAMES[rng.usize(0..NAMES.len())];
        if rng.u8(0..3) == 0 {
            patch.remove(name);
        } else {
            let mut bytes = vec![0; rng.usize(0..120)];
            rng.fill(&mut bytes);
            patch.set(name, bytes);
        }
    }
    patch
}

fn shown(record: &Record) -> String {
    let values: BTreeMap<_, _> = record
        .values
        .iter()
        .map(|(name, value)| (name, &value.bytes))
        .collect();
    let fresh = record.idle_left > Duration::from_secs(30) || record.superseded;
    let owner = record.owner.as_ref();
    let owner = owner.map(|owner| (&owner.principal, owner.revoked_ago.is_some()));
    format!(
        "{values:?} superseded {} fresh {fresh} owner {owner:?}",
        record.superseded
    )
}

/// A copy remembers an end, and not whose will it was.
fn shown_gone(gone: Gone) -> String {
    match gone.ending {
        Ending::Revoked => format!("gone: {:?}", Ending::Destroyed),
        ending => format!("gone: {ending:?}"),
    }
}

fn shown_load(load: &Load) -> String {
    match load {
        Load::Found(record) => shown(record),
        Load::Gone(gone) => shown_gone(*gone),
        Load::Unknown(error) => format!("unknown: {error:?}"),
    }
}

fn shown_list(list: &[SessionInfo]) -> String {
    let list: BTreeMap<_, _> = list
        .iter()
        .map(|info| (info.key, info.device.as_deref()))
        .collect();
    format!("{list:?}")
}

fn shown_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed(record) => format!("committed {}", shown(record)),
        Outcome::Gone(gone) => shown_gone(*gone),
        Outcome::Conflict { keys } => {
            let mut keys = keys.clone();
            keys.sort();
            format!("conflict {keys:?}")
        }
        other => format!("{other:?}"),
    }
}

/// What a reader who saw `seen` expects of the names in `patch`.
fn expected(patch: &Patch, seen: Option<&Record>) -> BTreeMap<String, Version> {
    let version = |name: &str| {
        let value = seen.and_then(|record| record.values.get(name));
        value.map_or(Version::ZERO, |value| value.version)
    };
    patch
        .iter()
        .map(|(name, _)| (name.to_owned(), version(name)))
        .collect()
}

/// What the same reader saw of a session in the store and in the memory store.
type Seen = BTreeMap<SessionKey, (Record, Record)>;

/// The store under check beside the memory store.
struct Pair<'a, 'b, S> {
    bench: &'a mut Bench<'b, S>,
    memory: MemoryStore,
    sessions: Vec<SessionKey>,
    seen: Seen,
    /// Of this run alone, so that what was revoked before does not matter. None where the store keeps no principals.
    people: Vec<Principal>,
    at: String,
}

/// Drives the store and the memory store through `steps` random steps and compares every outcome.
pub(super) async fn same<S: Store>(
    bench: &mut Bench<'_, S>,
    steps: usize,
) -> Result<(), Violation> {
    let people = bench.people(["ann", "bob", "{eve}: \"e\""]).await?;
    let mut pair = Pair {
        bench,
        memory: MemoryStore::new(),
        sessions: Vec::new(),
        seen: Seen::new(),
        people,
        at: String::new(),
    };
    for step in 0..steps {
        pair.at = format!("step {step}");
        pair.step().await?;
    }
    Ok(())
}

impl<S: Store> Pair<'_, '_, S> {
    fn patch(&mut self) -> Patch {
        patch(&mut self.bench.rng)
    }

    async fn step(&mut self) -> Result<(), Violation> {
        let pick = match self.sessions.len() {
            0 => self.bench.key([7, 7]),
            len => self.sessions[self.bench.rng.usize(len.saturating_sub(4)..len)],
        };
        let kinds = if self.people.is_empty() { 20 } else { 30 };
        match self.bench.rng.u8(0..kinds) {
            0..3 => {
                let new = self.bench.new_key();
                let commit = Commit::create(new, self.patch(), super::expiry(), MAX_BYTES);
                self.sessions.push(new);
                self.both(commit).await
            }
            3..12 => {
                let mut commit = Commit::update(pick, self.patch(), super::expiry(), MAX_BYTES);
                if self.bench.rng.u8(0..4) == 0 {
                    let next = self.bench.key(pick.tag());
                    commit.rotate_to = Some(next);
                    self.sessions.push(next);
                }
                self.both(commit).await
            }
            12..15 => self.expecting(pick).await,
            15 => {
                let ours = self.bench.store.destroy(pick).await;
                self.bench.answer(&self.at, ours)?;
                let theirs = self.memory.destroy(pick).await;
                self.bench.answer(&self.at, theirs)
            }
            16 => {
                let ours = self.bench.store.touch(pick, super::expiry()).await;
                self.bench.answer(&self.at, ours)?;
                let theirs = self.memory.touch(pick, super::expiry()).await;
                self.bench.answer(&self.at, theirs)
            }
            17..20 => {
                let load = self.bench.store.load(pick, Version::ZERO).await;
                let reference = self.memory.load(pick, Version::ZERO).await;
                self.compare(shown_load(&reference), shown_load(&load))
            }
            kind => self.principals(kind, pick).await,
        }
    }

    /// A commit of somebody who has read, some of whose names give way.
    async fn expecting(&mut self, pick: SessionKey) -> Result<(), Violation> {
        let patch = self.patch();
        let pair = self.seen.get(&pick);
        let ours = expected(&patch, pair.map(|pair| &pair.0));
        let theirs = expected(&patch, pair.map(|pair| &pair.1));
        let mut commit = Commit::update(pick, patch, super::expiry(), MAX_BYTES);
        let names = theirs.keys().filter(|_| self.bench.rng.bool());
        commit.yields = names.cloned().collect();
        commit.expected = Some(theirs);
        let reference = self.memory.commit(commit.clone()).await;
        commit.expected = Some(ours);
        let outcome = self.bench.commit(&self.at, commit).await?;
        let reference = self.bench.answer(&self.at, reference)?;
        self.compare(shown_outcome(&reference), shown_outcome(&outcome))
    }

    /// Claims, lists and revocations.
    async fn principals(&mut self, kind: u8, pick: SessionKey) -> Result<(), Violation> {
        let who = self.people[self.bench.rng.usize(0..self.people.len())].clone();
        match kind {
            20..25 => {
                let next = self.bench.key(who.tag());
                let patch = self.patch();
                let mut commit = if kind < 22 {
                    Commit::create(next, patch, super::expiry(), MAX_BYTES)
                } else {
                    let mut update = Commit::update(pick, patch, super::expiry(), MAX_BYTES);
                    update.rotate_to = Some(next);
                    update
                };
                commit.claim = Some(Claim::new(who, Some(&format!("device {}", self.at))));
                // A sign-in that began long before whatever was revoked in this run.
                let long_ago = self.bench.rng.u8(0..4) == 0;
                commit.began_ago = long_ago.then_some(Duration::from_secs(3600));
                self.sessions.push(next);
                self.both(commit).await
            }
            25..27 => {
                let ours = self.bench.store.list(who.clone()).await;
                let ours = self.bench.answer(&self.at, ours)?;
                let theirs = self.memory.list(who).await;
                let theirs = self.bench.answer(&self.at, theirs)?;
                self.compare(shown_list(&theirs), shown_list(&ours))
            }
            27 => {
                let ours = self.bench.store.revoke(who.clone(), pick).await;
                let ours = self.bench.answer(&self.at, ours)?;
                let theirs = self.memory.revoke(who, pick).await;
                let theirs = self.bench.answer(&self.at, theirs)?;
                self.compare(theirs.to_string(), ours.to_string())
            }
            _ => {
                let keep = self.bench.rng.u8(0..3) > 0 && pick.tag() == who.tag();
                let keep = keep.then_some(pick);
                let ours = self.bench.store.revoke_all(who.clone(), keep).await;
                self.bench.answer(&self.at, ours)?;
                let theirs = self.memory.revoke_all(who, keep).await;
                self.bench.answer(&self.at, theirs).map(drop)
            }
        }
    }

    fn compare(&self, expected: String, found: String) -> Result<(), Violation> {
        if expected == found {
            return Ok(());
        }
        Err(Violation {
            law: self.bench.law,
            seed: self.bench.seed,
            at: self.at.clone(),
            expected,
            found,
        })
    }

    async fn both(&mut self, commit: Commit) -> Result<(), Violation> {
        let after = commit.key_after();
        let outcome = self.bench.commit(&self.at, commit.clone()).await?;
        let reference = self.memory.commit(commit).await;
        let reference = self.bench.answer(&self.at, reference)?;
        self.compare(shown_outcome(&reference), shown_outcome(&outcome))?;
        if let (Outcome::Committed(ours), Outcome::Committed(theirs)) = (outcome, reference) {
            // Only some readers are up to date, so that conflicts happen.
            if self.bench.rng.bool() || !self.seen.contains_key(&after) {
                self.seen.insert(after, (ours, theirs));
            }
        }
        Ok(())
    }
}
