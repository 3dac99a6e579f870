//! Bare deadpool-postgres: writes to the node that was the primary when this was configured, reads from the others in turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use deadpool_postgres::Pool;

use crate::Outcome;
use crate::app::{Nodes, Seen, Sql, Told, Trouble, patiently, told};
use crate::pools;

pub(crate) const TABLE: &str = "note_deadpool";

#[derive(Debug)]
pub(crate) struct Bare {
    primary: Pool,
    replicas: Vec<Pool>,
    turn: AtomicUsize,
    sql: Sql,
}

impl Bare {
    pub(crate) fn start(nodes: &Nodes) -> Outcome<Self> {
        let mut pools = Vec::new();
        for (_, conninfo) in nodes {
            pools.push(pools::pool(conninfo)?);
        }
        Ok(Self {
            primary: pools.remove(0),
            replicas: pools,
            turn: AtomicUsize::new(0),
            sql: Sql::of(TABLE),
        })
    }

    pub(crate) async fn write(&self, client: usize, key: i64) -> (Told, Trouble) {
        let mut trouble = Trouble::default();
        let done = patiently(&mut trouble, || async move {
            pools::insert(&self.primary, &self.sql.insert, client, key).await
        })
        .await;
        (told(done), trouble)
    }

    pub(crate) async fn read(&self, client: usize) -> (Option<Seen>, Trouble) {
        let mut trouble = Trouble::default();
        let keys = patiently(&mut trouble, || async move {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.replicas.len();
            pools::list(&self.replicas[turn], &self.sql.list, client).await
        })
        .await;
        let seen = keys.ok().map(|keys| Seen {
            keys,
            on_replica: Some(true),
        });
        (seen, trouble)
    }
}
