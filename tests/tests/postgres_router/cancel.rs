//! Every operation of the router dropped after its first, second, … poll, until it runs to its end: whole or not at all, and nothing
//! left behind.

use ha_db::idempotency::{self, Claim, Fingerprint, Key, Store};
use ha_db::postgres::{Causal, Db, Router, Unit};
use ha_testbed::postgres::{Client, Cluster, Postgres};

use crate::polls::{MOST_POLLS, cut_after};
use crate::support::{builder, eventually, started};

const POOL: usize = 2;
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) router: Router,
    /// Sees what is committed, on a connection of its own.
    pub(crate) watcher: Client,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let cluster = Postgres::primary().start().await.unwrap();
        let watcher = cluster.nodes[0].client().await.unwrap();
        watcher
            .batch_execute("CREATE TABLE note (run bigint, part text)")
            .await
            .unwrap();
        let router = started(builder(&cluster).pool_size(POOL)).await;
        idempotency::migrate(&router).await.unwrap();
        Self {
            cluster,
            router,
            watcher,
        }
    }

    pub(crate) fn db(&self) -> Db {
        self.router.db(Causal::default())
    }

    /// What is committed of a run.
    pub(crate) async fn parts(&self, run: i64) -> Vec<String> {
        let sql = "SELECT part FROM note WHERE run = $1 ORDER BY part";
        let rows = self.watcher.query(sql, &[&run]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Whether a session of the router is inside a transaction right now.
    pub(crate) async fn in_transaction(&self) -> bool {
        let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'ha-db' \
             AND (xact_start IS NOT NULL OR state <> 'idle') AND query NOT LIKE '%pg_control_system%'";
        self.watcher.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Nothing is left behind: no transaction, and all connections can be had at once.
    pub(crate) async fn assert_whole(&self, what: &str) {
        eventually(&format!("{what}: no transaction is left"), async || {
            !self.in_transaction().await
        })
        .await;
        let mut held = Vec::new();
        for _ in 0..POOL {
            held.push(self.router.write().await.unwrap());
        }
        for conn in held {
            assert!(!is_begun(&conn).await, "{what}: inside a transaction");
        }
    }

    /// Runs `operation`, which writes `parts` rows under its run, dropped after 0, 1, 2, … polls, until it has ended by itself
    /// three times.
    pub(crate) async fn cut_everywhere(
        &self,
        what: &str,
        parts: usize,
        operation: impl AsyncFn(i64),
    ) {
        let mut ended = 0;
        for polls in 0..MOST_POLLS {
            let run = i64::try_from(polls).unwrap();
            let whole = cut_after(polls, operation(run)).await.is_some();
            let point = format!("{what}, {polls} polls");
            self.assert_whole(&point).await;
            let rows = self.parts(run).await.len();
            assert!(rows == 0 || rows == parts, "{point}: {rows} of {parts}");
            if whole {
                assert_eq!(rows, parts, "{point}");
                ended += 1;
            }
            if ended == 3 {
                eprintln!("{what}: cut at {} points", polls - 2);
                assert!(polls > 3, "{what} was never cut");
                self.watcher.batch_execute("TRUNCATE note").await.unwrap();
                return;
            }
        }
        panic!("{what} never ran to its end");
    }
}

/// Whether a transaction has begun on this connection: only then does its clock stand still between simple queries.
async fn is_begun(client: &tokio_postgres::Client) -> bool {
    let sql = "SELECT now() <> statement_timestamp()";
    let answer = client.simple_query(sql).await.unwrap();
    answer.iter().any(|message| {
        matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
    })
}

pub(crate) async fn add(client: &tokio_postgres::Client, run: i64, part: &str) {
    let sql = "INSERT INTO note VALUES ($1, $2)";
    client.execute(sql, &[&run, &part]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_transactions_cut_anywhere_leave_nothing() {
    let bed = Bed::start().await;
    bed.cut_everywhere("a read", 0, async |_| {
        let conn = bed.db().read().await.unwrap();
        conn.query_one("SELECT count(*) FROM note", &[])
            .await
            .unwrap();
    })
    .await;
    bed.cut_everywhere("a write", 1, async |run| {
        let conn = bed.db().write().await.unwrap();
        add(&conn, run, "a").await;
    })
    .await;
    bed.cut_everywhere("a transaction", 2, async |run| {
        let tx = bed.db().transaction().await.unwrap();
        add(&tx, run, "a").await;
        add(&tx, run, "b").await;
        tx.commit().await.unwrap();
    })
    .await;
    bed.cut_everywhere("a rollback", 0, async |run| {
        let tx = bed.router.transaction().await.unwrap();
        add(&tx, run, "a").await;
        tx.rollback().await.unwrap();
    })
    .await;
    bed.cut_everywhere("a token", 1, async |run| {
        let db = bed.db();
        let conn = db.write().await.unwrap();
        add(&conn, run, "a").await;
        drop(conn);
        db.token().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_and_savepoints_cut_anywhere_leave_nothing() {
    let bed = Bed::start().await;
    bed.cut_everywhere("a unit", 2, async |run| {
        let causal = Causal::default();
        let unit = Unit::begin(&bed.router, &causal).await.unwrap();
        add(&unit.client().await.unwrap(), run, "a").await;
        let tx = bed.router.db(causal).transaction().await.unwrap();
        add(&tx, run, "b").await;
        tx.commit().await.unwrap();
        unit.commit().await.unwrap();
    })
    .await;
    bed.cut_everywhere("a unit that is rolled back", 0, async |run| {
        let causal = Causal::default();
        let unit = Unit::begin(&bed.router, &causal).await.unwrap();
        add(&unit.client().await.unwrap(), run, "a").await;
        unit.rollback().await.unwrap();
    })
    .await;
    bed.cut_everywhere("savepoints", 2, async |run| {
        let mut tx = bed.router.transaction().await.unwrap();
        add(&tx, run, "a").await;
        let mut outer = tx.savepoint().await.unwrap();
        add(&outer, run, "b").await;
        let inner = outer.savepoint().await.unwrap();
        add(&inner, run, "c").await;
        inner.rollback().await.unwrap();
        outer.commit().await.unwrap();
        tx.commit().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyed_write_cut_anywhere_is_applied_once_by_the_next_try() {
    let bed = Bed::start().await;
    let store = Store::new(bed.router.clone());
    let keyed = async |run: i64| {
        let key = Key::parse(&format!("run-{run}")).unwrap();
        let causal = Causal::default();
        let fingerprint = Fingerprint::of([run.to_string().as_bytes()]);
        match store.claim(&causal, "", &key, &fingerprint).await.unwrap() {
            Claim::First(claimed) => {
                let tx = bed.router.db(causal).transaction().await.unwrap();
                add(&tx, run, "a").await;
                add(&tx, run, "b").await;
                tx.commit().await.unwrap();
                claimed.finish(b"done").await.unwrap();
            }
            Claim::Done(_) => {}
        }
    };
    bed.cut_everywhere("a keyed write", 2, async |run| {
        keyed(run).await;
    })
    .await;
    for run in 1000..1040 {
        cut_after(usize::try_from(run - 1000).unwrap(), keyed(run)).await;
        keyed(run).await;
        assert_eq!(bed.parts(run).await.len(), 2, "run {run}");
    }
}

/// The control: a pool that puts connections back as they are, which is what a guard around a shared client amounts to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_put_back_as_it_is_stays_inside_its_transaction() {
    let bed = Bed::start().await;
    let naive = tokio::sync::Mutex::new(bed.cluster.nodes[0].client().await.unwrap());
    let (mut leaked, mut half) = (0, 0);
    for polls in 0..MOST_POLLS {
        let run = i64::try_from(polls).unwrap();
        let ended = cut_after(polls, async {
            let client = naive.lock().await;
            client.batch_execute("BEGIN").await.unwrap();
            add(&client, run, "a").await;
            add(&client, run, "b").await;
            client.batch_execute("COMMIT").await.unwrap();
        })
        .await;
        let client = naive.lock().await;
        leaked += i32::from(is_begun(&client).await);
        // The next user commits what was never meant to be.
        client.batch_execute("COMMIT").await.unwrap();
        half += i32::from(bed.parts(run).await.len() == 1);
        if ended.is_some() {
            break;
        }
    }
    eprintln!("the control leaked {leaked} times and applied {half} halves");
    assert!(leaked > 0 && half > 0);
}
