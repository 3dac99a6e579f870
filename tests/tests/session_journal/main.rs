//! Writes that go on while PostgreSQL is away, in Redis and a journal on disk: the app killed in the middle, Redis flushed, sessions that
//! are changed or ended elsewhere meanwhile.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ha_db::postgres::Router;
use ha_db::redis::{Connection, driver};
use ha_session::{
    Claim, Commit, Expiry, Journal, JournalError, Level, Load, Outcome, Patch, PostgresStore,
    Principal, RedisStore, SessionKey, Store, StoreError, Tiered, Version,
};
use ha_testbed::postgres::Postgres;
use ha_testbed::redis::Redis;
use ha_testbed::{postgres, redis};
use tempfile::TempDir;
use tokio::time::Instant;

#[path = "../polls/mod.rs"]
mod polls;

use polls::{MOST_POLLS, cut_after};

const DEADLINE: Duration = Duration::from_secs(60);
const MAX: usize = 10_000;

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn key(n: u8) -> SessionKey {
    SessionKey::from_parts([n, 0], [n; 32])
}

fn expiry() -> Expiry {
    let hour = Duration::from_secs(3600);
    Expiry::new(hour, 10 * hour).unwrap()
}

fn set(name: &str, value: &str) -> Patch {
    let mut patch = Patch::new();
    patch.set(name, value.as_bytes().to_vec());
    patch
}

fn update(key: SessionKey, name: &str, value: &str) -> Commit {
    Commit::update(key, set(name, value), expiry(), MAX)
}

fn create(key: SessionKey, name: &str, value: &str) -> Commit {
    Commit::create(key, set(name, value), expiry(), MAX)
}

/// Commits, again and again on a busy machine: to do it twice is to do it once.
async fn committed(store: &impl Store, commit: Commit) -> Version {
    let mut version = None;
    eventually("committed", async || {
        match store.commit(commit.clone()).await {
            Ok(Outcome::Committed(record)) => version = Some(record.version),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        version.is_some()
    })
    .await;
    version.unwrap()
}

/// What a session holds; `None` when it is gone.
async fn held(store: &impl Store, key: SessionKey) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    eventually("it is known", async || {
        match store.load(key, Version::ZERO).await {
            Load::Found(record) => found = Some(record.values),
            Load::Gone(_) => found = None,
            Load::Unknown(_) => return false,
        }
        true
    })
    .await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let pairs = found?.into_iter();
    Some(
        pairs
            .map(|(name, value)| (name, text(&value.bytes)))
            .collect(),
    )
}

fn values(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Some(pairs.iter().map(owned).collect())
}

async fn truth(conninfo: &str) -> PostgresStore {
    let router = Router::builder()
        .node("only", conninfo)
        .write_wait(Duration::from_millis(300))
        .build()
        .unwrap();
    PostgresStore::new(router)
}

struct Bed {
    redis: redis::Cluster,
    postgres: postgres::Cluster,
    connection: Connection,
    dir: TempDir,
}

impl Bed {
    async fn start() -> Self {
        let (redis, postgres) = tokio::join!(Redis::single().start(), Postgres::primary().start());
        let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
        let connection = Connection::from_url(&redis.url()).unwrap();
        connection.ready(DEADLINE).await.unwrap();
        let bed = Self {
            redis,
            postgres,
            connection,
            dir: TempDir::new().unwrap(),
        };
        let store = bed.truth().await;
        eventually("migrated", async || store.migrate().await.is_ok()).await;
        bed
    }

    async fn truth(&self) -> PostgresStore {
        truth(&self.postgres.nodes[0].conninfo()).await
    }

    /// Opens it, once the store before has let go of it.
    async fn journal(&self) -> Journal {
        let mut journal = None;
        eventually("nobody else has it", async || {
            match Journal::open(self.dir.path()) {
                Ok(opened) => journal = Some(opened),
                Err(JournalError::InUse { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            journal.is_some()
        })
        .await;
        journal.unwrap()
    }

    async fn store(&self, journal: &Journal) -> Tiered {
        let redis = RedisStore::new(self.connection.clone());
        Tiered::new(redis, self.truth().await).level(Level::DurableOrJournal(journal.clone()))
    }

    /// The same servers, acknowledged by Redis alone.
    async fn cache_only(&self) -> Tiered {
        let redis = RedisStore::new(self.connection.clone());
        let redis = redis.prefix("cache").unwrap();
        Tiered::new(redis, self.truth().await).level(Level::Cache)
    }

    async fn stop_postgres(&self) {
        self.postgres.nodes[0].kill().await.unwrap();
    }

    async fn start_postgres(&self) {
        self.postgres.nodes[0].start().await.unwrap();
    }

    async fn flush(&self) {
        let flush = driver::cmd("FLUSHALL");
        self.redis.nodes[0].command::<()>(&flush).await.unwrap();
    }
}

async fn replayed(journal: &Journal) {
    eventually("replayed", async || journal.status().pending == 0).await;
}

/// What PostgreSQL itself holds.
async fn in_postgresql(bed: &Bed, key: SessionKey) -> Option<BTreeMap<String, String>> {
    held(&bed.truth().await, key).await
}

#[tokio::test]
async fn writes_go_on_without_postgresql_and_are_there_when_it_is_back_though_redis_is_flushed_too()
{
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    let cached = bed.cache_only().await;
    committed(&store, create(key(1), "a", "1")).await;
    committed(&cached, create(key(1), "a", "1")).await;
    replayed(&journal).await;

    bed.stop_postgres().await;
    for n in 0..20 {
        let value = n.to_string();
        committed(&store, update(key(1), "a", &value)).await;
        committed(&store, update(key(1), &format!("n{n}"), &value)).await;
        committed(&cached, update(key(1), "a", &value)).await;
    }
    let mut removal = Patch::new();
    removal.remove("n0");
    committed(&store, Commit::update(key(1), removal, expiry(), MAX)).await;
    // A session that begins now, and one that ends.
    committed(&store, create(key(2), "cart", "1")).await;
    committed(&store, update(key(2), "cart", "2")).await;
    committed(&store, create(key(3), "cart", "1")).await;
    eventually("it is ended", async || store.destroy(key(3)).await.is_ok()).await;
    assert_eq!(held(&store, key(3)).await, None);
    let seen = held(&store, key(1)).await.unwrap();
    assert_eq!(seen["a"], "19", "seen at once");
    assert!(journal.status().pending > 40);

    // The app ends and starts anew, Redis loses everything, and only then is PostgreSQL back.
    drop((store, journal));
    bed.flush().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    assert!(journal.status().pending > 40);
    bed.start_postgres().await;
    replayed(&journal).await;
    let mut expected = BTreeMap::from([("a".to_owned(), "19".to_owned())]);
    expected.extend((1..20).map(|n| (format!("n{n}"), n.to_string())));
    assert_eq!(in_postgresql(&bed, key(1)).await, Some(expected.clone()));
    assert_eq!(held(&store, key(1)).await, Some(expected));
    assert_eq!(in_postgresql(&bed, key(2)).await, values(&[("cart", "2")]));
    assert_eq!(in_postgresql(&bed, key(3)).await, None);
    eventually("its files are gone", async || journal.status().bytes == 0).await;
    assert_eq!(held(&cached, key(1)).await, None, "the control");
}

/// What the process of [`an_app_that_is_killed_while_postgresql_is_away_has_lost_nothing`] does.
#[tokio::test]
async fn child() {
    let Ok(arguments) = std::env::var("HA_SESSION_JOURNAL_CHILD") else {
        return;
    };
    let [redis, conninfo, dir] = arguments.split('|').collect::<Vec<_>>()[..] else {
        panic!("{arguments}");
    };
    let connection = Connection::from_url(redis).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let journal = Journal::open(dir).unwrap();
    let store = Tiered::new(RedisStore::new(connection), truth(conninfo).await)
        .level(Level::DurableOrJournal(journal));
    for n in 0..u32::MAX {
        let commit = update(key(1), &format!("n{}", n % 50), &n.to_string());
        if let Ok(Outcome::Committed(_)) = store.commit(commit).await {
            println!("acknowledged {n}");
        }
    }
}

#[tokio::test]
async fn an_app_that_is_killed_while_postgresql_is_away_has_lost_nothing() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    committed(&store, create(key(1), "a", "1")).await;
    drop((store, journal));
    bed.stop_postgres().await;

    let arguments = [
        bed.redis.url(),
        bed.postgres.nodes[0].conninfo(),
        bed.dir.path().to_str().unwrap().to_owned(),
    ];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("HA_SESSION_JOURNAL_CHILD", arguments.join("|"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = tokio::task::spawn_blocking(move || {
        let mut last = None;
        for line in lines.map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("acknowledged ") {
                last = number.parse::<u32>().ok();
                if last.is_some_and(|last| last > 200) {
                    break;
                }
            }
        }
        // Kill -9, between two writes or in the middle of one.
        child.kill().unwrap();
        child.wait().unwrap();
        last
    });
    let last = tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
    let last = last.expect("writes were acknowledged");
    bed.flush().await;

    let journal = bed.journal().await;
    let _store = bed.store(&journal).await;
    bed.start_postgres().await;
    replayed(&journal).await;
    let found = in_postgresql(&bed, key(1)).await.unwrap();
    for name in 0..50 {
        let newest = (0..=last).rev().find(|n| n % 50 == name).unwrap();
        let stored: u32 = found[&format!("n{name}")].parse().unwrap();
        assert!(stored >= newest, "n{name}: {stored} is older than {newest}");
    }
}

#[tokio::test]
async fn what_was_changed_or_ended_elsewhere_meanwhile_stays_so() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    let ann = Principal::new("ann").unwrap();
    let of_ann = SessionKey::from_parts(ann.tag(), [9; 32]);
    for n in 1..=5 {
        committed(&store, create(key(n), "a", "before")).await;
    }
    let mut claim = create(of_ann, "a", "before");
    claim.claim = Some(Claim::new(ann.clone(), None));
    committed(&store, claim).await;

    bed.stop_postgres().await;
    for key in [key(1), key(2), key(3), key(4), key(5), of_ann] {
        committed(&store, update(key, "a", "journaled")).await;
        committed(&store, update(key, "b", "journaled")).await;
    }
    committed(&store, create(key(6), "a", "journaled")).await;
    // This app is gone while PostgreSQL comes back, and others are not.
    drop((store, journal));
    bed.start_postgres().await;
    let other_dir = TempDir::new().unwrap();
    let other_journal = Journal::open(other_dir.path()).unwrap();
    let truth = bed.truth().await;
    eventually("postgresql answers", async || {
        !matches!(truth.load(key(1), Version::ZERO).await, Load::Unknown(_))
    })
    .await;
    committed(&truth, update(key(1), "a", "later")).await;
    let mut removal = Patch::new();
    removal.remove("a");
    committed(&truth, Commit::update(key(2), removal, expiry(), MAX)).await;
    eventually("it is ended", async || truth.destroy(key(3)).await.is_ok()).await;
    let mut rotation = update(key(4), "user", "ann");
    rotation.rotate_to = Some(SessionKey::from_parts([4, 0], [44; 32]));
    committed(&truth, rotation).await;
    eventually("all are revoked", async || {
        truth.revoke_all(ann.clone(), None).await.is_ok()
    })
    .await;
    // One of which PostgreSQL has never heard, ended by an app server of the same level.
    {
        let redis = RedisStore::new(bed.connection.clone());
        let other = Tiered::new(redis, bed.truth().await)
            .level(Level::DurableOrJournal(other_journal.clone()));
        eventually("it is ended", async || other.destroy(key(6)).await.is_ok()).await;
    }
    bed.flush().await;

    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    replayed(&journal).await;
    let both = |a, b| values(&[("a", a), ("b", b)]);
    assert_eq!(
        in_postgresql(&bed, key(1)).await,
        both("later", "journaled")
    );
    assert_eq!(
        in_postgresql(&bed, key(2)).await,
        values(&[("b", "journaled")])
    );
    assert_eq!(
        in_postgresql(&bed, key(5)).await,
        both("journaled", "journaled")
    );
    for gone in [key(3), of_ann, key(6)] {
        assert_eq!(in_postgresql(&bed, gone).await, None, "{gone:?}");
        assert_eq!(held(&store, gone).await, None, "{gone:?}");
    }
    let rotated = SessionKey::from_parts([4, 0], [44; 32]);
    let expected = values(&[("a", "before"), ("user", "ann")]);
    assert_eq!(in_postgresql(&bed, rotated).await, expected);
    assert!(journal.status().dropped > 0);
}

/// The copy in Redis is ahead of PostgreSQL until the journal is replayed: other app servers neither overwrite it with what PostgreSQL has
/// nor miss what is in it.
#[tokio::test]
async fn until_it_is_replayed_other_app_servers_see_what_redis_has_and_not_what_postgresql_has() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    let old = committed(&store, create(key(1), "a", "before")).await;
    bed.stop_postgres().await;
    let version = committed(&store, update(key(1), "a", "journaled")).await;
    committed(&store, create(key(2), "a", "journaled")).await;
    drop((store, journal));
    bed.start_postgres().await;

    let other_dir = TempDir::new().unwrap();
    let other_journal = Journal::open(other_dir.path()).unwrap();
    let redis = RedisStore::new(bed.connection.clone());
    let other = Tiered::new(redis, bed.truth().await).recheck(Duration::ZERO);
    let other = other.level(Level::DurableOrJournal(other_journal.clone()));
    let truth = bed.truth().await;
    eventually("postgresql answers", async || {
        matches!(truth.load(key(1), Version::ZERO).await, Load::Found(_))
    })
    .await;
    for floor in [Version::ZERO, old, version] {
        for key in [key(1), key(2)] {
            let load = other.load(key, floor).await;
            let Load::Found(record) = load else {
                panic!("{load:?}");
            };
            assert_eq!(record.values["a"].bytes, &b"journaled"[..]);
        }
    }
    // Its own writes follow.
    committed(&other, update(key(1), "a", "after")).await;
    let mut rotation = update(key(1), "b", "1");
    rotation.rotate_to = Some(SessionKey::from_parts([1, 0], [11; 32]));
    let refused = other.commit(rotation).await.unwrap_err();
    assert!(!refused.may_have_changed(), "{refused:?}");
    replayed(&other_journal).await;
    let journal = bed.journal().await;
    let _store = bed.store(&journal).await;
    replayed(&journal).await;
    assert_eq!(in_postgresql(&bed, key(1)).await, values(&[("a", "after")]));
    assert_eq!(
        in_postgresql(&bed, key(2)).await,
        values(&[("a", "journaled")])
    );
    eventually("all is as ever", async || {
        let mut rotation = update(key(1), "b", "1");
        rotation.rotate_to = Some(SessionKey::from_parts([1, 0], [12; 32]));
        matches!(other.commit(rotation).await, Ok(Outcome::Committed(_)))
    })
    .await;
}

/// Redis is lost as well, and PostgreSQL comes back before the journal: what it has is not what the client was told.
#[tokio::test]
async fn a_client_is_never_shown_what_is_older_than_what_it_was_told() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    committed(&store, create(key(1), "a", "before")).await;
    bed.stop_postgres().await;
    let version = committed(&store, update(key(1), "a", "journaled")).await;
    let born = committed(&store, create(key(2), "a", "journaled")).await;
    drop((store, journal));
    bed.flush().await;
    bed.start_postgres().await;
    let other_dir = TempDir::new().unwrap();
    let other_journal = Journal::open(other_dir.path()).unwrap();
    let redis = RedisStore::new(bed.connection.clone());
    let other =
        Tiered::new(redis, bed.truth().await).level(Level::DurableOrJournal(other_journal.clone()));
    eventually("postgresql answers", async || {
        held(&bed.truth().await, key(1)).await.is_some()
    })
    .await;
    for (key, floor) in [(key(1), version), (key(2), born)] {
        let load = other.load(key, floor).await;
        assert!(
            matches!(load, Load::Unknown(StoreError::Stale { .. })),
            "{load:?}"
        );
    }
    // Who was told nothing is shown what there is.
    assert_eq!(held(&other, key(1)).await, values(&[("a", "before")]));
    let journal = bed.journal().await;
    let _store = bed.store(&journal).await;
    replayed(&journal).await;
    for (key, floor) in [(key(1), version), (key(2), born)] {
        eventually("it is known again", async || {
            matches!(other.load(key, floor).await, Load::Found(record) if record.values["a"].bytes == b"journaled"[..])
        })
        .await;
    }
}

#[tokio::test]
async fn what_only_postgresql_can_judge_is_refused_and_so_is_everything_without_redis() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    committed(&store, create(key(1), "a", "1")).await;
    bed.stop_postgres().await;
    let ann = Principal::new("ann").unwrap();
    let mut rotation = update(key(1), "a", "2");
    rotation.rotate_to = Some(SessionKey::from_parts([1, 0], [2; 32]));
    let mut claim = create(SessionKey::from_parts(ann.tag(), [3; 32]), "a", "2");
    claim.claim = Some(Claim::new(ann.clone(), None));
    let mut expecting = update(key(1), "a", "2");
    expecting.expected = Some(BTreeMap::from([("a".to_owned(), Version::ZERO)]));
    for commit in [rotation, claim, expecting] {
        assert!(store.commit(commit).await.is_err());
    }
    assert!(store.revoke_all(ann, None).await.is_err());
    assert!(
        store.destroy(key(77)).await.is_err(),
        "of which nothing is known"
    );
    assert!(store.commit(update(key(77), "a", "2")).await.is_err());
    assert_eq!(journal.status().pending, 0);
    bed.redis.nodes[0].kill().await.unwrap();
    assert!(store.commit(update(key(1), "a", "2")).await.is_err());
    assert!(store.destroy(key(1)).await.is_err());
    assert_eq!(journal.status().pending, 0);
}

fn is_full(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else {
        return false;
    };
    let cause = source.downcast_ref::<JournalError>();
    matches!(cause, Some(JournalError::Full { .. }))
}

#[tokio::test]
async fn a_full_journal_refuses_and_changes_nothing() {
    let bed = Bed::start().await;
    let journal = Journal::open_with(bed.dir.path(), Journal::MIN_BYTES).unwrap();
    let store = bed.store(&journal).await;
    let start = |n: u8| Commit::create(key(n), set("a", "1"), expiry(), 60_000);
    committed(&store, start(1)).await;
    bed.stop_postgres().await;
    let large = "x".repeat(50_000);
    let mut last = String::new();
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        assert!(Instant::now() < deadline, "never full");
        let value = format!("{large}{}", journal.status().pending);
        let commit = Commit::update(key(1), set("a", &value), expiry(), 60_000);
        match store.commit(commit).await {
            Ok(Outcome::Committed(_)) => last = value,
            Ok(other) => panic!("{other:?}"),
            Err(error) if is_full(&error) => break error,
            Err(_) => {}
        }
    };
    assert!(journal.status().bytes <= Journal::MIN_BYTES);
    assert!(!refused.may_have_changed());
    assert_eq!(held(&store, key(1)).await.unwrap()["a"], last);
    bed.start_postgres().await;
    replayed(&journal).await;
    assert_eq!(in_postgresql(&bed, key(1)).await.unwrap()["a"], last);
}

#[tokio::test]
async fn a_commit_that_is_dropped_anywhere_is_stored_as_a_whole_or_not_at_all() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    committed(&store, create(key(1), "a", "1")).await;
    bed.stop_postgres().await;
    // From here on PostgreSQL is known to be away.
    eventually("it is journaled", async || {
        store.commit(update(key(1), "a", "2")).await.is_ok()
    })
    .await;
    let (mut whole, mut cuts) = (0, 0);
    while whole < 3 {
        assert!(cuts < MOST_POLLS, "never ran to its end");
        let mut commit = update(key(1), &format!("x{cuts}"), "1");
        commit.patch.set(format!("y{cuts}"), &b"1"[..]);
        let done = cut_after(cuts, store.commit(commit)).await;
        whole += usize::from(done.is_some());
        cuts += 1;
    }
    let seen = held(&store, key(1)).await.unwrap();
    drop((store, journal));
    let journal = bed.journal().await;
    let store = bed.store(&journal).await;
    bed.start_postgres().await;
    replayed(&journal).await;
    let found = in_postgresql(&bed, key(1)).await.unwrap();
    for n in 0..cuts {
        let (x, y) = (format!("x{n}"), format!("y{n}"));
        assert_eq!(found.contains_key(&x), found.contains_key(&y), "{n}");
        assert!(
            !seen.contains_key(&x) || found.contains_key(&x),
            "{n}: seen and lost"
        );
    }
    assert_eq!(held(&store, key(1)).await, Some(found));
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|found| found == "journal"))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_is_damaged_is_put_aside_and_costs_nothing_else_and_one_process_has_it_at_a_time() {
    let bed = Bed::start().await;
    let journal = bed.journal().await;
    let refused = Journal::open(bed.dir.path());
    assert!(
        matches!(refused, Err(JournalError::InUse { .. })),
        "{refused:?}"
    );
    let small = Journal::open_with(bed.dir.path(), 10);
    assert!(
        matches!(small, Err(JournalError::TooSmall { .. })),
        "{small:?}"
    );
    let file = bed.dir.path().join("lock");
    let no_dir = Journal::open(&file);
    assert!(matches!(no_dir, Err(JournalError::Io { .. })), "{no_dir:?}");

    let store = bed.store(&journal).await;
    committed(&store, create(key(1), "a", "1")).await;
    bed.stop_postgres().await;
    for n in 0..3 {
        committed(&store, update(key(1), &format!("n{n}"), "1")).await;
    }
    drop((store, journal));
    // A bit of the second record flips, and the last write was cut off.
    let path = segments(bed.dir.path())
        .into_iter()
        .find(|path| std::fs::metadata(path).unwrap().len() > 0)
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(2).position(|two| two == b"n1").unwrap();
    bytes[at] ^= 1;
    bytes.extend_from_slice(b"HaJ1half");
    std::fs::write(&path, bytes).unwrap();

    bed.flush().await;
    let journal = bed.journal().await;
    assert_eq!(journal.status().damaged, 2);
    assert_eq!(journal.status().pending, 2);
    let _store = bed.store(&journal).await;
    bed.start_postgres().await;
    replayed(&journal).await;
    let found = in_postgresql(&bed, key(1)).await;
    assert_eq!(found, values(&[("a", "1"), ("n0", "1"), ("n2", "1")]));
    eventually("it is put aside", async || {
        path.with_extension("damaged").exists() && !path.exists()
    })
    .await;
}
