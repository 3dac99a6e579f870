//! A store against the memory store: the same steps must have the same outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Bench, MAX_BYTES, Violation};
use crate::id::SessionKey;
use crate::record::{Patch, Record, Version};
use crate::store::{Commit, Load, MemoryStore, Outcome, Store};

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
    format!("{values:?} superseded {} fresh {fresh}", record.superseded)
}

fn shown_load(load: &Load) -> String {
    match load {
        Load::Found(record) => shown(record),
        Load::Gone(gone) => format!("gone: {:?}", gone.ending),
        Load::Unknown(error) => format!("unknown: {error:?}"),
    }
}

fn shown_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed(record) => format!("committed {}", shown(record)),
        Outcome::Gone(gone) => format!("gone: {:?}", gone.ending),
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

/// Drives the store and the memory store through `steps` random steps and compares every outcome.
pub(super) async fn same<S: Store>(
    bench: &mut Bench<'_, S>,
    steps: usize,
) -> Result<(), Violation> {
    let memory = MemoryStore::new();
    let mut sessions: Vec<SessionKey> = Vec::new();
    let mut seen = Seen::new();
    for step in 0..steps {
        let at = format!("step {step}");
        let pick = match sessions.len() {
            0 => bench.key([7, 7]),
            len => sessions[bench.rng.usize(len.saturating_sub(4)..len)],
        };
        match bench.rng.u8(0..20) {
            0..3 => {
                let new = bench.new_key();
                let patch = patch(&mut bench.rng);
                let commit = Commit::create(new, patch, super::expiry(), MAX_BYTES);
                both(bench, &memory, commit, &mut seen, &at).await?;
                sessions.push(new);
            }
            3..12 => {
                let patch = patch(&mut bench.rng);
                let mut commit = Commit::update(pick, patch, super::expiry(), MAX_BYTES);
                if bench.rng.u8(0..4) == 0 {
                    let next = bench.key(pick.tag());
                    commit.rotate_to = Some(next);
                    sessions.push(next);
                }
                both(bench, &memory, commit, &mut seen, &at).await?;
            }
            12..15 => {
                let patch = patch(&mut bench.rng);
                let pair = seen.get(&pick);
                let ours = expected(&patch, pair.map(|pair| &pair.0));
                let theirs = expected(&patch, pair.map(|pair| &pair.1));
                let mut commit = Commit::update(pick, patch, super::expiry(), MAX_BYTES);
                commit.expected = Some(theirs);
                let reference = memory.commit(commit.clone()).await;
                commit.expected = Some(ours);
                let outcome = bench.commit(&at, commit).await?;
                let reference = bench.answer(&at, reference)?;
                compare(
                    bench,
                    &at,
                    shown_outcome(&reference),
                    shown_outcome(&outcome),
                )?;
            }
            15 => {
                bench.answer(&at, bench.store.destroy(pick).await)?;
                bench.answer(&at, memory.destroy(pick).await)?;
            }
            16 => {
                bench.answer(&at, bench.store.touch(pick, super::expiry()).await)?;
                bench.answer(&at, memory.touch(pick, super::expiry()).await)?;
            }
            _ => {
                let load = bench.store.load(pick, Version::ZERO).await;
                let reference = memory.load(pick, Version::ZERO).await;
                compare(bench, &at, shown_load(&reference), shown_load(&load))?;
            }
        }
    }
    Ok(())
}

fn compare<S: Store>(
    bench: &Bench<'_, S>,
    at: &str,
    expected: String,
    found: String,
) -> Result<(), Violation> {
    if expected == found {
        return Ok(());
    }
    Err(Violation {
        law: bench.law,
        seed: bench.seed,
        at: at.to_owned(),
        expected,
        found,
    })
}

async fn both<S: Store>(
    bench: &mut Bench<'_, S>,
    memory: &MemoryStore,
    commit: Commit,
    seen: &mut Seen,
    at: &str,
) -> Result<(), Violation> {
    let after = commit.key_after();
    let outcome = bench.commit(at, commit.clone()).await?;
    let reference = bench.answer(at, memory.commit(commit).await)?;
    compare(
        bench,
        at,
        shown_outcome(&reference),
        shown_outcome(&outcome),
    )?;
    if let (Outcome::Committed(ours), Outcome::Committed(theirs)) = (outcome, reference) {
        // Only some readers are up to date, so that conflicts happen.
        if bench.rng.bool() || !seen.contains_key(&after) {
            seen.insert(after, (ours, theirs));
        }
    }
    Ok(())
}
