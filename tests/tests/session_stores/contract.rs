//! A store against the memory store: the same steps must have the same outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_session::{
    Claim, Commit, Ending, Expiry, Gone, Load, MemoryStore, Outcome, Patch, Principal, Record,
    SessionInfo, SessionKey, Store, Version,
};

use crate::support::eventually;

const NAMES: [&str; 5] = ["a", "b", "name with space", "ünïcode:\"quoted\"", "k:x"];
const MAX_BYTES: usize = 400;

fn expiry() -> Expiry {
    Expiry::new(Duration::from_secs(60), Duration::from_secs(600)).unwrap()
}

fn key(rng: &mut fastrand::Rng, tag: [u8; 2]) -> SessionKey {
    let mut hash = [0; 32];
    rng.fill(&mut hash);
    SessionKey::from_parts(tag, hash)
}

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
        Load::Unknown(error) => panic!("unknown: {error:?}"),
    }
}

fn shown_list(list: &[SessionInfo]) -> BTreeMap<SessionKey, Option<&str>> {
    list.iter()
        .map(|info| (info.key, info.device.as_deref()))
        .collect()
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

/// Drives `store` and the memory store through `steps` random steps and compares every outcome.
pub(crate) async fn same_as_memory(store: impl Store, seed: u64, steps: usize) {
    let rng = &mut fastrand::Rng::with_seed(seed);
    let memory = MemoryStore::new();
    // Of this run alone, so that what was revoked before does not matter.
    let run = fastrand::u64(..);
    let people = ["ann", "bob", "{eve}: \"e\""];
    let people = people.map(|name| Principal::new(format!("{name} {run}")).unwrap());
    let mut sessions: Vec<SessionKey> = Vec::new();
    let mut seen: BTreeMap<SessionKey, (Record, Record)> = BTreeMap::new();
    for step in 0..steps {
        let at = format!("seed {seed}, step {step}");
        let pick = match sessions.len() {
            0 => key(rng, [7, 7]),
            len => sessions[rng.usize(len.saturating_sub(4)..len)],
        };
        let who = &people[rng.usize(0..people.len())];
        match rng.u8(0..30) {
            20..22 => {
                let new = key(rng, who.tag());
                let mut commit = Commit::create(new, patch(rng), expiry(), MAX_BYTES);
                commit.claim = Some(Claim::new(who.clone(), Some(&format!("device {step}"))));
                both(&store, &memory, commit, &mut seen, &at).await;
                sessions.push(new);
            }
            22..25 => {
                let next = key(rng, who.tag());
                let mut commit = Commit::update(pick, patch(rng), expiry(), MAX_BYTES);
                commit.rotate_to = Some(next);
                commit.claim = Some(Claim::new(who.clone(), Some(&format!("device {step}"))));
                both(&store, &memory, commit, &mut seen, &at).await;
                sessions.push(next);
            }
            25..27 => {
                let ours = store.list(who.clone()).await.unwrap();
                let theirs = memory.list(who.clone()).await.unwrap();
                assert_eq!(shown_list(&ours), shown_list(&theirs), "{at}");
            }
            27 => {
                let ours = store.revoke(who.clone(), pick).await.unwrap();
                let theirs = memory.revoke(who.clone(), pick).await.unwrap();
                assert_eq!(ours, theirs, "{at}");
            }
            28..30 => {
                let keep = (rng.u8(0..3) > 0 && pick.tag() == who.tag()).then_some(pick);
                let ours = store.revoke_all(who.clone(), keep).await.unwrap();
                let theirs = memory.revoke_all(who.clone(), keep).await.unwrap();
                assert!(ours > 0 && theirs > 0, "{at}");
            }
            0..3 => {
                let tag = [rng.u8(..), rng.u8(..)];
                let new = key(rng, tag);
                let commit = Commit::create(new, patch(rng), expiry(), MAX_BYTES);
                both(&store, &memory, commit, &mut seen, &at).await;
                sessions.push(new);
            }
            3..12 => {
                let mut commit = Commit::update(pick, patch(rng), expiry(), MAX_BYTES);
                if rng.u8(0..4) == 0 {
                    let next = key(rng, pick.tag());
                    commit.rotate_to = Some(next);
                    sessions.push(next);
                }
                both(&store, &memory, commit, &mut seen, &at).await;
            }
            12..15 => {
                let patch = patch(rng);
                let pair = seen.get(&pick);
                let (ours, theirs) = (
                    expected(&patch, pair.map(|pair| &pair.0)),
                    expected(&patch, pair.map(|pair| &pair.1)),
                );
                let mut commit = Commit::update(pick, patch, expiry(), MAX_BYTES);
                commit.expected = Some(theirs);
                let reference = memory.commit(commit.clone()).await.unwrap();
                commit.expected = Some(ours);
                let outcome = store.commit(commit).await.unwrap();
                assert_eq!(shown_outcome(&outcome), shown_outcome(&reference), "{at}");
            }
            15 => {
                store.destroy(pick).await.unwrap();
                memory.destroy(pick).await.unwrap();
            }
            16 => {
                store.touch(pick, expiry()).await.unwrap();
                memory.touch(pick, expiry()).await.unwrap();
            }
            _ => {
                let load = store.load(pick, Version::ZERO).await;
                let reference = memory.load(pick, Version::ZERO).await;
                assert_eq!(shown_load(&load), shown_load(&reference), "{at}");
            }
        }
    }
}

async fn both(
    store: &impl Store,
    memory: &MemoryStore,
    commit: Commit,
    seen: &mut BTreeMap<SessionKey, (Record, Record)>,
    at: &str,
) {
    let after = commit.rotate_to.unwrap_or(commit.key);
    let outcome = store.commit(commit.clone()).await.unwrap();
    let reference = memory.commit(commit).await.unwrap();
    assert_eq!(shown_outcome(&outcome), shown_outcome(&reference), "{at}");
    if let (Outcome::Committed(ours), Outcome::Committed(theirs)) = (outcome, reference) {
        // Only some readers are up to date, so that conflicts happen.
        if ours.version.get() % 2 == 0 || !seen.contains_key(&after) {
            seen.insert(after, (ours, theirs));
        }
    }
}

/// A session ends on the store's own clock, after being idle and in any case after its whole life.
pub(crate) async fn expires(store: impl Store) {
    let rng = &mut fastrand::Rng::new();
    let short = Expiry::new(Duration::from_secs(1), Duration::from_secs(3)).unwrap();
    let (idle, used) = (key(rng, [1, 2]), key(rng, [3, 4]));
    let begun = tokio::time::Instant::now();
    for key in [idle, used] {
        let mut patch = Patch::new();
        patch.set("a", vec![1]);
        let created = store
            .commit(Commit::create(key, patch, short, MAX_BYTES))
            .await
            .unwrap();
        assert!(matches!(created, Outcome::Committed(_)));
    }
    eventually("the unused session ends", async || {
        store.touch(used, short).await.unwrap();
        matches!(store.load(idle, Version::ZERO).await, Load::Gone(_))
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(990));
    assert!(
        matches!(store.load(used, Version::ZERO).await, Load::Found(_)),
        "used and not too old"
    );
    eventually("the used session ends", async || {
        store.touch(used, short).await.unwrap();
        matches!(store.load(used, Version::ZERO).await, Load::Gone(_))
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(2990));
    let late = Commit::update(used, Patch::new(), short, MAX_BYTES);
    assert!(matches!(
        store.commit(late).await.unwrap(),
        Outcome::Gone(_)
    ));
}
