//! A policy as GitLab's load balancer has it: after a write the client's position is kept; a read asks the replicas, one
//! after the other, whether one has replayed it, and goes to the primary at once when none has.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use deadpool_postgres::Pool;

use crate::Outcome;
use crate::app::{Nodes, Seen, Sql, Told, Trouble, patiently, told};
use crate::pools;

pub(crate) const TABLE: &str = "note_gitlab";
const POSITION: &str = "SELECT pg_current_wal_insert_lsn()::text";

#[derive(Debug)]
pub(crate) struct Gitlab {
    primary: Pool,
    replicas: Vec<Pool>,
    turn: AtomicUsize,
    /// Where each client's last write ended, as text: only servers compare them.
    written: Vec<Mutex<Option<String>>>,
    sql: Sql,
}

impl Gitlab {
    pub(crate) fn start(nodes: &Nodes, clients: usize) -> Outcome<Self> {
        let mut pools = Vec::new();
        for (_, conninfo) in nodes {
            pools.push(pools::pool(conninfo)?);
        }
        Ok(Self {
            primary: pools.remove(0),
            replicas: pools,
            turn: AtomicUsize::new(0),
            written: (0..clients).map(|_| Mutex::default()).collect(),
            sql: Sql::of(TABLE),
        })
    }

    fn written(&self, client: usize) -> MutexGuard<'_, Option<String>> {
        self.written[client]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn write(&self, client: usize, key: i64) -> (Told, Trouble) {
        let mut trouble = Trouble::default();
        let done = patiently(&mut trouble, || async move {
            pools::insert(&self.primary, &self.sql.insert, client, key).await?;
            pools::query(&self.primary, POSITION, &[]).await
        })
        .await;
        let done = done.map(|rows| {
            let position = rows.first().map(|row| row.get(0));
            *self.written(client) = position;
        });
        (told(done), trouble)
    }

    pub(crate) async fn read(&self, client: usize) -> (Option<Seen>, Trouble) {
        let mut trouble = Trouble::default();
        let seen = patiently(&mut trouble, || async move {
            let written = self.written(client).clone();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let caught_up = self.caught_up(turn, written.as_deref()).await;
            let pool = caught_up.unwrap_or(&self.primary);
            let keys = pools::list(pool, &self.sql.list, client).await?;
            Ok(Seen {
                keys,
                on_replica: Some(caught_up.is_some()),
            })
        })
        .await;
        (seen.ok(), trouble)
    }

    async fn caught_up(&self, turn: usize, written: Option<&str>) -> Option<&Pool> {
        let count = self.replicas.len();
        let mut replicas = (0..count).map(|at| &self.replicas[(turn + at) % count]);
        let Some(written) = written else {
            return replicas.next();
        };
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
        for pool in replicas {
            let asked = pools::query(pool, &sql, &[]).await;
            let yes = asked.is_ok_and(|rows| rows.first().is_some_and(|row| row.get(0)));
            if yes {
                return Some(pool);
            }
        }
        None
    }
}
