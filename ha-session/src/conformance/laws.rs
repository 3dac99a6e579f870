//! The laws, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{join_all, poll_fn};
use tokio::time::Instant;

use super::{Bench, MAX_BYTES, Violation, set};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Claim, Principal};
use crate::record::{Patch, Record, Version};
use crate::store::{Commit, MAX_LISTED, Outcome, Store};

fn update(key: SessionKey, patch: Patch) -> Commit {
    Commit::update(key, patch, super::expiry(), MAX_BYTES)
}

fn names(record: Option<&Record>) -> Vec<String> {
    record
        .map(|record| record.values.keys().cloned().collect())
        .unwrap_or_default()
}

pub(super) async fn create_once<S: Store>(
    bench: &mut Bench<'_, S>,
    count: usize,
) -> Result<(), Violation> {
    let key = bench.new_key();
    let create = |n| Commit::create(key, set(&format!("n{n}"), b"1"), super::expiry(), 1 << 20);
    let commits = (0..count).map(|n| bench.committed("a first commit", create(n)));
    for record in join_all(commits).await {
        record?;
    }
    let record = bench.load("after the commits", key).await?;
    let found = names(record.as_ref());
    if found.len() != count {
        return Err(bench.broken("after the commits", format!("{count} names"), found));
    }
    Ok(())
}

/// Sign-ins of one principal and a revocation of all among them.
pub(super) async fn principals<S: Store>(
    bench: &mut Bench<'_, S>,
    count: usize,
) -> Result<(), Violation> {
    let people = bench.people(["ann", "bob", "eve"]).await?;
    let [ann, bob, _] = &people[..] else {
        return Ok(());
    };
    let mut keys = Vec::new();
    for who in [ann, ann, ann, bob] {
        let key = bench.key(who.tag());
        let commit = bench.claim(key, who);
        let record = bench.committed("a sign-in", commit).await?;
        if record.owner.map(|owner| owner.principal).as_ref() != Some(who) {
            return Err(bench.broken("a sign-in", "a session of whom it was claimed for", who));
        }
        keys.push(key);
    }
    let [first, second, kept, of_bob] = keys[..] else {
        return Ok(());
    };
    let known = bench.store.revoke(ann.clone(), of_bob).await;
    if bench.answer("revoking somebody else's", known)? {
        return Err(bench.broken("revoking somebody else's", "no", "yes"));
    }
    let known = bench.store.revoke(ann.clone(), first).await;
    if !bench.answer("revoking one", known)? {
        return Err(bench.broken("revoking one", "yes", "no"));
    }
    bench
        .listed("after one was revoked", ann, &[second, kept])
        .await?;

    // What is claimed before the epoch is drawn is gone; what comes after it knows of it. Nothing is in between.
    let late: Vec<_> = (0..count).map(|_| bench.key(ann.tag())).collect();
    let claims = late.iter().map(|key| {
        let commit = bench.claim(*key, ann);
        bench.committed("a sign-in beside a revocation", commit)
    });
    let revoke = bench.store.revoke_all(ann.clone(), Some(kept));
    let (epoch, claimed) = tokio::join!(revoke, join_all(claims));
    let epoch = bench.answer("revoking all", epoch)?;
    let mut left = vec![kept];
    for (key, record) in late.iter().zip(claimed) {
        let owner = record?.owner;
        let knows = owner.is_some_and(|owner| owner.epoch >= epoch && owner.revoked_ago.is_some());
        let there = bench.load("after all were revoked", *key).await?.is_some();
        if there != knows {
            return Err(bench.broken("after all were revoked", format!("there: {knows}"), there));
        }
        left.extend(there.then_some(*key));
    }
    for (key, there) in [(second, false), (kept, true), (of_bob, true)] {
        let at = "after all of one were revoked";
        if bench.load(at, key).await?.is_some() != there {
            return Err(bench.broken(at, format!("there: {there}"), key));
        }
    }
    if left.len() <= MAX_LISTED {
        bench.listed("after all were revoked", ann, &left).await?;
    }
    let commit = update(second, set("late", b"1"));
    let outcome = bench.commit("a late write", commit).await?;
    if !matches!(outcome, Outcome::Gone(_)) {
        return Err(bench.broken("a late write", "gone", outcome));
    }
    Ok(())
}

impl<S: Store> Bench<'_, S> {
    fn claim(&self, key: SessionKey, who: &Principal) -> Commit {
        let mut commit = Commit::create(key, set("start", b"1"), super::expiry(), MAX_BYTES);
        commit.claim = Some(Claim::new(who.clone(), Some("a device")));
        commit
    }

    async fn listed(
        &self,
        at: &str,
        who: &Principal,
        expected: &[SessionKey],
    ) -> Result<(), Violation> {
        let list = self.answer(at, self.store.list(who.clone()).await)?;
        let found: BTreeSet<_> = list.iter().map(|info| info.key).collect();
        let expected = expected.iter().copied().collect();
        if found == expected {
            return Ok(());
        }
        Err(self.broken(at, format!("{expected:?}"), found))
    }
}

pub(super) async fn merge<S: Store>(
    bench: &mut Bench<'_, S>,
    count: usize,
) -> Result<(), Violation> {
    let key = bench.session().await?;
    // Limits are not what this law is about.
    let commit = |n| Commit::update(key, set(&format!("n{n}"), b"1"), super::expiry(), 1 << 20);
    let commits = (0..count).map(|n| bench.committed("a concurrent commit", commit(n)));
    for record in join_all(commits).await {
        record?;
    }
    let record = bench.load("after the commits", key).await?;
    let found = names(record.as_ref());
    if found.len() != count + 1 {
        let expected = format!("{} names", count + 1);
        return Err(bench.broken("after the commits", expected, found));
    }
    Ok(())
}

pub(super) async fn gone<S: Store>(
    bench: &mut Bench<'_, S>,
    count: usize,
) -> Result<(), Violation> {
    for round in 0..4 {
        let at = format!("round {round}");
        let key = bench.session().await?;
        let end = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            bench.answer(&at, bench.store.destroy(key).await)
        };
        let commits =
            (0..count).map(|n| bench.commit(&at, update(key, set(&format!("n{n}"), b"1"))));
        let (ended, outcomes) = tokio::join!(end, join_all(commits));
        ended?;
        for outcome in outcomes {
            match outcome? {
                Outcome::Committed(_) | Outcome::Gone(_) | Outcome::TooLarge { .. } => {}
                other => return Err(bench.broken(&at, "committed, or gone", other)),
            }
        }
        let late = bench.commit(&at, update(key, set("late", b"1"))).await?;
        if !matches!(late, Outcome::Gone(_)) {
            return Err(bench.broken(&at, "a late commit is told that the session is gone", late));
        }
        bench.answer(&at, bench.store.touch(key, super::expiry()).await)?;
        if let Some(record) = bench.load(&at, key).await? {
            return Err(bench.broken(&at, "no session", record));
        }
        bench.answer("ending it again", bench.store.destroy(key).await)?;
    }
    let never = bench.new_key();
    let outcome = bench
        .commit("a key that never was", update(never, set("a", b"1")))
        .await?;
    if !matches!(outcome, Outcome::Gone(_)) {
        return Err(bench.broken("a key that never was", "gone", outcome));
    }
    Ok(())
}

pub(super) async fn rotate<S: Store>(
    bench: &mut Bench<'_, S>,
    count: usize,
) -> Result<(), Violation> {
    let old = bench.session().await?;
    let next: Vec<_> = (0..count).map(|_| bench.key(old.tag())).collect();
    let commits = next.iter().map(|next| {
        let mut commit = update(old, set("secret", b"1"));
        commit.rotate_to = Some(*next);
        bench.commit("a concurrent rotation", commit)
    });
    let mut winners = Vec::new();
    for (outcome, next) in join_all(commits).await.into_iter().zip(&next) {
        match outcome? {
            Outcome::Committed(_) => winners.push(*next),
            Outcome::Superseded | Outcome::Gone(_) => {}
            other => return Err(bench.broken("a concurrent rotation", "superseded", other)),
        }
    }
    let [winner] = winners[..] else {
        return Err(bench.broken("after the rotations", "one winner", winners));
    };
    for key in next {
        let found = names(bench.load("a new id", key).await?.as_ref());
        let expected: &[&str] = if key == winner {
            &["secret", "start"]
        } else {
            &[]
        };
        if found != expected {
            return Err(bench.broken("a new id", format!("{expected:?}"), found));
        }
    }
    let seen = bench.load("the old id", old).await?;
    if names(seen.as_ref()).iter().any(|name| name == "secret")
        || seen.as_ref().is_some_and(|record| !record.superseded)
    {
        return Err(bench.broken("the old id", "superseded, without what followed", seen));
    }
    for rotate_to in [None, Some(bench.key(old.tag()))] {
        let mut commit = update(old, set("planted", b"1"));
        commit.rotate_to = rotate_to;
        let outcome = bench.commit("a write under the old id", commit).await?;
        if matches!(outcome, Outcome::Committed(_)) {
            return Err(bench.broken("a write under the old id", "a refusal", outcome));
        }
    }
    let found = names(bench.load("the new id", winner).await?.as_ref());
    if found != ["secret", "start"] {
        return Err(bench.broken("the new id", "nothing planted", found));
    }
    Ok(())
}

pub(super) async fn conflict<S: Store>(bench: &mut Bench<'_, S>) -> Result<(), Violation> {
    let key = bench.session().await?;
    let seen = bench
        .committed("a write", update(key, set("a", b"1")))
        .await?;
    let version = |name: &str| {
        seen.values
            .get(name)
            .map_or(Version::ZERO, |value| value.version)
    };
    let expected = |name: &str| BTreeMap::from([(name.to_owned(), version(name))]);
    bench
        .committed("a newer write", update(key, set("a", b"2")))
        .await?;
    for (name, refused) in [("a", true), ("start", false), ("new", false)] {
        let mut commit = update(key, set(name, b"3"));
        commit.expected = Some(expected(name));
        let outcome = bench.commit(name, commit).await?;
        let right = match &outcome {
            Outcome::Conflict { keys } => refused && keys == &[name],
            Outcome::Committed(_) => !refused,
            _ => false,
        };
        if !right {
            let law = if refused {
                "a conflict of a"
            } else {
                "a commit"
            };
            return Err(bench.broken(name, law, outcome));
        }
    }
    let record = bench.load("afterwards", key).await?;
    let value = record.and_then(|record| record.values.get("a").map(|value| value.bytes.clone()));
    if value.as_deref() != Some(b"2") {
        return Err(bench.broken("afterwards", "the newer write", value));
    }
    Ok(())
}

pub(super) async fn limit<S: Store>(bench: &mut Bench<'_, S>) -> Result<(), Violation> {
    let key = bench.session().await?;
    let mut patch = set("small", b"1");
    patch.set("large", vec![1; MAX_BYTES]);
    // "start" and "1", "small" and "1", "large" and what it holds.
    let bytes = 6 + 6 + 5 + MAX_BYTES;
    let outcome = bench.commit("too large", update(key, patch)).await?;
    if outcome != (Outcome::TooLarge { bytes }) {
        return Err(bench.broken("too large", format!("refused with {bytes} bytes"), outcome));
    }
    let found = names(bench.load("afterwards", key).await?.as_ref());
    if found != ["start"] {
        return Err(bench.broken("afterwards", "nothing of it", found));
    }
    let mut fits = Patch::new();
    fits.set("large", vec![1; MAX_BYTES - 6 - 5]);
    bench
        .committed("exactly as large as allowed", update(key, fits))
        .await?;
    Ok(())
}

pub(super) async fn versions<S: Store>(bench: &mut Bench<'_, S>) -> Result<(), Violation> {
    let mut key = bench.session().await?;
    let mut last = Version::ZERO;
    for step in 0..20 {
        let at = format!("commit {step}");
        let mut commit = update(key, set("n", b"1"));
        if step % 7 == 6 {
            commit.rotate_to = Some(bench.key(key.tag()));
        }
        let after = commit.key_after();
        let record = bench.committed(&at, commit).await?;
        if record.version <= last {
            return Err(bench.broken(at, format!("more than {last}"), record.version));
        }
        (key, last) = (after, record.version);
        let loaded = bench.load(&at, key).await?.map(|record| record.version);
        if loaded != Some(last) {
            return Err(bench.broken(at, format!("version {last}"), loaded));
        }
    }
    Ok(())
}

/// Polls a commit a few times, drops it, and looks at what is there once nothing changes any more.
pub(super) async fn whole<S: Store>(bench: &mut Bench<'_, S>) -> Result<(), Violation> {
    for polls in 0..8 {
        let at = format!("dropped after {polls} polls");
        let key = bench.session().await?;
        let mut patch = Patch::new();
        for n in 0..8 {
            patch.set(format!("n{n}"), b"1".as_slice());
        }
        polled(bench.store.commit(update(key, patch)), polls).await;
        // Stored after this one or before it: a commit of the same session comes one after the other.
        bench
            .committed(&at, update(key, set("after", b"1")))
            .await?;
        let found = names(bench.load(&at, key).await?.as_ref());
        if ![2, 10].contains(&found.len()) {
            return Err(bench.broken(at, "all eight or none", found));
        }
    }
    Ok(())
}

/// Polls `future` up to `polls` times, each time that it wants to be, and drops it. Gives up on one that wants nothing for a while.
async fn polled<F: Future>(future: F, polls: usize) {
    let mut future = pin!(future);
    let mut left = polls;
    let some = poll_fn(|cx| {
        if left == 0 || future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        left -= 1;
        Poll::Pending
    });
    let _ = tokio::time::timeout(Duration::from_secs(5), some).await;
}

async fn ended<S: Store>(
    bench: &Bench<'_, S>,
    key: SessionKey,
    within: Duration,
    used: Option<(SessionKey, Expiry)>,
) -> Result<(), Violation> {
    let deadline = Instant::now() + within;
    while bench.load("waiting for the end", key).await?.is_some() {
        if Instant::now() > deadline {
            return Err(bench.broken("waiting for the end", "an end", "still there"));
        }
        if let Some((key, expiry)) = used {
            bench.answer("a touch", bench.store.touch(key, expiry).await)?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub(super) async fn expiry<S: Store>(
    bench: &mut Bench<'_, S>,
    patience: Duration,
) -> Result<(), Violation> {
    let (idle, life) = (Duration::from_secs(2), Duration::from_secs(6));
    let short = Expiry::new(idle, life).unwrap_or_default();
    let (unused, used) = (bench.new_key(), bench.new_key());
    let begun = Instant::now();
    for key in [unused, used] {
        let create = Commit::create(key, set("a", b"1"), short, MAX_BYTES);
        let record = bench.committed("a short session", create).await?;
        if record.idle_left > idle || record.absolute_left > life {
            return Err(bench.broken("a short session", "2 s and 6 s left", record));
        }
    }
    ended(bench, unused, idle + patience, Some((used, short))).await?;
    // A store may count in whole milliseconds.
    if begun.elapsed() + Duration::from_millis(10) < idle {
        let found = begun.elapsed();
        return Err(bench.broken("unused", "2 s", found));
    }
    // A machine that stood still may have let it pass unused.
    let still = bench.load("used", used).await?.is_some();
    if !still && begun.elapsed() < 2 * idle {
        return Err(bench.broken("used", "extended by use", "gone"));
    }
    ended(bench, used, life + patience, Some((used, short))).await?;
    let late = bench.commit(
        "after its life",
        Commit::update(used, set("b", b"1"), short, MAX_BYTES),
    );
    let outcome = late.await?;
    if !matches!(outcome, Outcome::Gone(_)) {
        return Err(bench.broken("after its life", "gone", outcome));
    }
    Ok(())
}
