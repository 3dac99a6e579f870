use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::id::SessionId;
use crate::principal::Claim;

const MAX: usize = 1000;
/// Nobody's sessions were ever revoked.
const NEVER: Revocations<'_> = &|_| None;
const HOUR: Duration = Duration::from_secs(3600);

fn expiry() -> Expiry {
    Expiry::new(HOUR, 10 * HOUR).unwrap()
}

fn key(byte: u8) -> SessionKey {
    SessionId::from_bytes([byte; crate::id::ID_LEN]).key()
}

fn patch(changes: &[(&str, Option<&str>)]) -> Patch {
    let mut patch = Patch::new();
    for (name, value) in changes {
        match value {
            Some(value) => patch.set(*name, value.as_bytes().to_vec()),
            None => patch.remove(*name),
        }
    }
    patch
}

fn update(changes: &[(&str, Option<&str>)]) -> Commit {
    Commit::update(key(1), patch(changes), expiry(), MAX)
}

fn run(stored: Option<&Entry>, step: &Commit, now: u64) -> (Outcome, Option<Entry>) {
    let step = commit(stored, step, NEVER, now);
    let entry = step.writes.into_iter().next().map(|(_, entry)| entry);
    (step.outcome, entry)
}

fn live(changes: &[(&str, Option<&str>)], now: u64) -> Entry {
    let create = Commit::create(key(1), patch(changes), expiry(), MAX);
    run(None, &create, now).1.unwrap()
}

fn text(entry: &Entry) -> Vec<(String, String)> {
    entry
        .values
        .iter()
        .map(|(name, value)| {
            let text = String::from_utf8(value.bytes.to_vec()).unwrap();
            (name.clone(), text)
        })
        .collect()
}

#[test]
fn a_patch_changes_its_own_names_and_leaves_the_others() {
    let entry = live(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))], 100);
    let (_, next) = run(Some(&entry), &update(&[("a", Some("2")), ("b", None)]), 200);
    assert_eq!(
        text(&next.unwrap()),
        [("a".into(), "2".into()), ("c".into(), "1".into())]
    );
}

#[test]
fn versions_grow_with_each_commit_whatever_the_clock_does() {
    let entry = live(&[], 1000);
    assert_eq!(entry.version, Version::new(1000));
    let (_, back) = run(Some(&entry), &update(&[("a", Some("1"))]), 10);
    assert_eq!(back.unwrap().version, Version::new(1001));
}

#[test]
fn a_commit_never_brings_back_what_is_gone() {
    let mut destroyed = live(&[("a", Some("1"))], 0);
    destroyed.destroy(50);
    let expired = live(&[("a", Some("1"))], 0);
    let late = millis(HOUR) + 7;
    let cases: [(Option<&Entry>, u64, Gone); 3] = [
        (None, 60, Gone::MISSING),
        (
            Some(&destroyed),
            60,
            Gone {
                ending: Ending::Destroyed,
                ago: Some(Duration::from_millis(10)),
            },
        ),
        (
            Some(&expired),
            late,
            Gone {
                ending: Ending::Expired,
                ago: Some(Duration::from_millis(7)),
            },
        ),
    ];
    for (stored, now, gone) in cases {
        let (outcome, written) = run(stored, &update(&[("b", Some("2"))]), now);
        assert_eq!(outcome, Outcome::Gone(gone));
        assert_eq!(written, None, "{gone:?}");
    }
}

#[test]
fn destroying_keeps_no_value_and_the_first_time_of_the_end() {
    let mut entry = live(&[("secret", Some("1"))], 0);
    entry.destroy(50);
    let first = entry.clone();
    entry.destroy(90);
    assert_eq!(entry, first);
    assert!(entry.values.is_empty());
}

#[test]
fn an_expected_version_finds_changes_removals_and_additions_by_others() {
    let entry = live(&[("a", Some("1")), ("b", Some("1"))], 100);
    let seen = entry.version;
    let (_, moved) = run(
        Some(&entry),
        &update(&[("a", Some("2")), ("b", None), ("c", Some("1"))]),
        200,
    );
    let moved = moved.unwrap();
    let mine = |name: &str, version| {
        let mut step = update(&[(name, Some("mine"))]);
        step.expected = Some([(name.to_owned(), version)].into());
        run(Some(&moved), &step, 300).0
    };
    for (name, version) in [("a", seen), ("b", seen), ("c", Version::ZERO)] {
        let keys = vec![name.to_owned()];
        assert_eq!(mine(name, version), Outcome::Conflict { keys });
    }
    assert!(matches!(mine("d", Version::ZERO), Outcome::Committed(_)));
    assert!(matches!(mine("a", moved.version), Outcome::Committed(_)));
}

#[test]
fn what_is_too_large_after_the_merge_is_refused_with_its_size() {
    let entry = live(&[("a", Some(&"x".repeat(600)))], 100);
    let (outcome, written) = run(Some(&entry), &update(&[("b", Some(&"x".repeat(500)))]), 200);
    assert_eq!(outcome, Outcome::TooLarge { bytes: 1102 });
    assert_eq!(written, None);
    let (outcome, _) = run(Some(&entry), &update(&[("a", Some(&"x".repeat(999)))]), 200);
    assert!(
        matches!(outcome, Outcome::Committed(_)),
        "the old value no longer counts"
    );
}

#[test]
fn a_rotation_moves_the_session_and_leaves_the_old_values_for_the_grace() {
    let entry = live(&[("cart", Some("1"))], 100);
    let mut step = update(&[("user", Some("ann"))]);
    step.rotate_to = Some(key(2));
    let done = commit(Some(&entry), &step, NEVER, 1000);
    let [(old_key, old), (new_key, new)] = &done.writes[..] else {
        panic!("two writes");
    };
    assert_eq!((*old_key, *new_key), (key(1), key(2)));
    assert_eq!(
        text(old),
        [("cart".into(), "1".into())],
        "nothing of the new session"
    );
    assert_eq!(new.values.len(), 2);
    assert_eq!(
        new.absolute_until, entry.absolute_until,
        "rotating lengthens no life"
    );

    let grace = millis(ROTATION_GRACE);
    assert_eq!(old.view(1000 + grace - 1, NEVER), View::Superseded);
    assert!(matches!(old.view(1000 + grace, NEVER), View::Gone(g) if g.ending == Ending::Rotated));
    let (outcome, written) = run(Some(old), &update(&[("x", Some("1"))]), 1001);
    assert_eq!((outcome, written), (Outcome::Superseded, None));
}

#[test]
fn the_idle_window_moves_with_use_and_never_past_the_absolute_end() {
    let mut entry = live(&[], 0);
    let hour = millis(HOUR);
    for now in [hour / 2, hour, 3 * hour / 2] {
        entry.touch(expiry(), now, NEVER);
        assert_eq!(entry.idle_until, now + hour);
    }
    entry.idle_until = 10 * hour - 1;
    entry.touch(expiry(), 10 * hour - 2, NEVER);
    assert_eq!(entry.idle_until, 10 * hour);
    assert!(matches!(entry.view(10 * hour, NEVER), View::Gone(g) if g.ending == Ending::Expired));
    let ended = entry.clone();
    entry.touch(expiry(), 11 * hour, NEVER);
    assert_eq!(entry, ended, "touching wakes nothing");
}

#[derive(Debug, Clone)]
enum Act {
    Patch(Vec<(u8, Option<u8>)>),
    Touch,
    Destroy,
    Wait(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => prop::collection::vec((0u8..6, prop::option::of(any::<u8>())), 0..4).prop_map(Act::Patch),
        1 => Just(Act::Touch),
        1 => Just(Act::Destroy),
        2 => (0u32..5_000_000).prop_map(Act::Wait),
    ]
}

fn numbered(changes: &[(u8, Option<u8>)]) -> Patch {
    let mut patch = Patch::new();
    for (name, value) in changes {
        match value {
            Some(value) => patch.set(name.to_string(), vec![*value]),
            None => patch.remove(name.to_string()),
        }
    }
    patch
}

proptest! {
    #[test]
    fn commits_of_different_names_merge_in_any_order(order in Just((0..20u8).collect::<Vec<_>>()).prop_shuffle()) {
        let mut entry = live(&[], 0);
        for name in order {
            let step = Commit::update(key(1), numbered(&[(name, Some(name))]), expiry(), MAX);
            entry = run(Some(&entry), &step, 5).1.unwrap();
        }
        prop_assert_eq!(entry.values.len(), 20);
    }

    #[test]
    fn once_gone_always_gone_and_versions_never_fall(acts in prop::collection::vec(act(), 1..40)) {
        let mut now = 1_000u64;
        let mut entry = live(&[], now);
        let mut was_gone = false;
        for act in acts {
            let version = entry.version;
            match act {
                Act::Patch(changes) => {
                    let step = Commit::update(key(1), numbered(&changes), expiry(), MAX);
                    let (outcome, written) = run(Some(&entry), &step, now);
                    prop_assert_eq!(written.is_some(), matches!(outcome, Outcome::Committed(_)));
                    if let Some(next) = written {
                        prop_assert!(next.version > version);
                        entry = next;
                    }
                }
                Act::Touch => entry.touch(expiry(), now, NEVER),
                Act::Destroy => entry.destroy(now),
                Act::Wait(ms) => now += u64::from(ms),
            }
            let gone = matches!(entry.view(now, NEVER), View::Gone(_));
            prop_assert!(gone || !was_gone, "it came back");
            prop_assert!(entry.idle_until <= entry.absolute_until);
            prop_assert!(entry.version >= version);
            was_gone = gone;
        }
    }
}

fn ann() -> Principal {
    Principal::new("ann").unwrap()
}

/// A session that was claimed at `now`, when `revoked` was the newest revocation.
fn signed_in(now: u64, revoked: Option<Revocation>) -> Entry {
    let mut step = Commit::create(key(1), Patch::new(), expiry(), MAX);
    step.claim = Some(Claim::new(ann(), Some("Firefox")));
    let done = commit(None, &step, &|_| revoked, now);
    done.writes.into_iter().next().unwrap().1
}

#[test]
fn a_revocation_ends_what_was_claimed_before_it_and_nothing_that_comes_after() {
    let first = Revocation::next(None, 100);
    let before = signed_in(50, None);
    let after = signed_in(150, Some(first));
    let revocations: Revocations<'_> = &|principal| (*principal == ann()).then_some(first);
    assert_eq!(
        before.view(160, revocations),
        View::Gone(Gone {
            ending: Ending::Revoked,
            ago: Some(Duration::from_millis(60)),
        })
    );
    assert_eq!(after.view(160, revocations), View::Live);
    let late = commit(
        Some(&before),
        &update(&[("a", Some("1"))]),
        revocations,
        160,
    );
    assert!(matches!(late.outcome, Outcome::Gone(gone) if gone.ending == Ending::Revoked));
    assert!(late.writes.is_empty());

    let owner = after.record(160, revocations).owner.unwrap();
    assert_eq!(
        (owner.epoch, owner.revoked_ago),
        (first.epoch, Some(Duration::from_millis(60)))
    );
    let second = Revocation::next(Some(first), 90);
    assert!(second.epoch > first.epoch, "whatever the clock does");
}

#[test]
fn a_rotation_keeps_the_owner_and_claims_nothing_anew() {
    let entry = signed_in(50, None);
    let mut step = update(&[]);
    step.rotate_to = Some(key(2));
    let revoked = Revocation::next(None, 60);
    // The revocation came between: the successor is as old as what it follows.
    let writes = commit(Some(&entry), &step, NEVER, 70).writes;
    let (_, next) = writes.last().unwrap();
    assert_eq!(next.owned, entry.owned);
    assert!(matches!(
        next.view(80, &|_| Some(revoked)),
        View::Gone(gone) if gone.ending == Ending::Revoked
    ));
    assert_eq!(writes[0].1.successor(71), Some(key(2)));
    assert_eq!(writes[0].1.successor(70 + millis(ROTATION_GRACE)), None);
}

#[test]
fn a_sign_in_that_a_revocation_overtook_is_refused_and_stores_nothing() {
    let last = Revocation::next(None, 1_000);
    let revoked: Revocations<'_> = &|_| Some(last);
    let entry = live(&[("cart", Some("1"))], 500);
    let sign_in = |began_ago: Option<u64>, knows| {
        let mut step = update(&[("user", Some("ann"))]);
        step.rotate_to = Some(key(2));
        step.claim = Some(Claim::new(ann(), None));
        step.began_ago = began_ago.map(Duration::from_millis);
        step.knows = knows;
        commit(Some(&entry), &step, revoked, 1_100)
    };
    let refused = sign_in(Some(100), 0);
    assert_eq!(
        refused.outcome,
        Outcome::Overtaken,
        "began when it was drawn"
    );
    assert!(refused.writes.is_empty());
    for (began_ago, knows) in [(Some(99), 0), (Some(500), last.epoch), (None, 0)] {
        let outcome = sign_in(began_ago, knows).outcome;
        assert!(matches!(outcome, Outcome::Committed(_)), "{began_ago:?}");
    }
}

/// Requests that read, and later write what they computed from it, each name by its policy.
mod policies {
    use super::*;
    use crate::conflict::{Conflicts, OnConflict};

    const POLICIES: [OnConflict; 3] = [
        OnConflict::LastWriter,
        OnConflict::FirstWriter,
        OnConflict::Refuse,
    ];

    fn conflicts() -> Conflicts {
        let names = ["0", "1", "2", "3", "4", "5"]
            .into_iter()
            .zip(POLICIES.iter().cycle());
        Conflicts {
            default: OnConflict::LastWriter,
            names: names
                .map(|(name, policy)| (name.to_owned(), *policy))
                .collect(),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Read(usize),
        /// Of the reader, to these names.
        Write(usize, BTreeSet<u8>, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let names = prop::collection::btree_set(0u8..6, 1..4);
        prop_oneof![
            1 => (0usize..3).prop_map(Step::Read),
            2 => (0usize..3, names, any::<bool>()).prop_map(|(who, names, remove)| Step::Write(who, names, remove)),
        ]
    }

    proptest! {
        #[test]
        fn no_unseen_change_is_overwritten_where_the_policy_protects_it(steps in prop::collection::vec(step(), 1..60)) {
            let conflicts = conflicts();
            let mut entry = live(&[], 1_000);
            let mut seen: [Option<Record>; 3] = [None, None, None];
            for (now, step) in (1_001..).zip(steps) {
                let (who, names, remove) = match step {
                    Step::Read(who) => {
                        seen[who] = Some(entry.record(now, NEVER));
                        continue;
                    }
                    Step::Write(who, names, remove) => (who, names, remove),
                };
                let mut patch = Patch::new();
                for name in &names {
                    if remove {
                        patch.remove(name.to_string());
                    } else {
                        patch.set(name.to_string(), now.to_string().into_bytes());
                    }
                }
                let mut commit = Commit::update(key(1), patch, expiry(), MAX);
                if let Some(record) = &seen[who]
                    && let Some((expected, yields)) = conflicts.expected(&commit.patch, record)
                {
                    commit.expected = Some(expected);
                    commit.yields = yields;
                }
                let changed = |name: &str| {
                    let of = |values: &BTreeMap<String, Value>| values.get(name).map(|value| value.version);
                    seen[who].as_ref().is_some_and(|record| of(&record.values) != of(&entry.values))
                };
                let policy = |name: &str| conflicts.of(name);
                let refuses = |name: &String| policy(name) == OnConflict::Refuse && changed(name);
                let names: Vec<_> = names.iter().map(u8::to_string).collect();
                let refused: Vec<_> = names.iter().filter(|name| refuses(name)).cloned().collect();
                let (outcome, written) = run(Some(&entry), &commit, now);
                if !refused.is_empty() {
                    prop_assert_eq!(outcome, Outcome::Conflict { keys: refused });
                    prop_assert!(written.is_none());
                    continue;
                }
                prop_assert!(matches!(outcome, Outcome::Committed(_)));
                let next = written.unwrap();
                for name in &names {
                    let yields = policy(name) == OnConflict::FirstWriter && changed(name);
                    if yields {
                        prop_assert_eq!(next.values.get(name), entry.values.get(name));
                    } else if remove {
                        prop_assert!(!next.values.contains_key(name));
                    } else {
                        prop_assert_eq!(next.values[name].version, next.version);
                    }
                }
                seen[who] = Some(next.record(now, NEVER));
                entry = next;
            }
        }
    }
}
