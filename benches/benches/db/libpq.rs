//! Connection strings with several hosts, as libpq has them: `target_session_attrs=read-write` for writes, any host for
//! reads, each behind a pool. What fails is repeated, as most services do it.

use deadpool_postgres::Pool;

use crate::Outcome;
use crate::app::{Nodes, Seen, Sql, Told, Trouble, patiently, told};
use crate::pools;

pub(crate) const TABLE: &str = "note_libpq";

#[derive(Debug)]
pub(crate) struct Libpq {
    writes: Pool,
    reads: Pool,
    sql: Sql,
}

/// One connection string for all nodes, which must differ in nothing but host and port.
pub(crate) fn conninfo(nodes: &Nodes, rest: &str) -> Outcome<String> {
    let field = |name: &str| -> Outcome<Vec<String>> {
        let of = |text: &String| {
            let words = text.split_whitespace();
            let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            values.next().map(str::to_owned)
        };
        let all: Option<Vec<_>> = nodes.iter().map(|(_, text)| of(text)).collect();
        all.ok_or_else(|| format!("a connection string without {name}").into())
    };
    Ok(format!(
        "host={} port={} user={} dbname={} connect_timeout=1 {rest}",
        field("host")?.join(","),
        field("port")?.join(","),
        field("user")?[0],
        field("dbname")?[0],
    ))
}

impl Libpq {
    pub(crate) fn start(nodes: &Nodes) -> Outcome<Self> {
        let any = "target_session_attrs=any load_balance_hosts=random";
        Ok(Self {
            writes: pools::pool(&conninfo(nodes, "target_session_attrs=read-write")?)?,
            reads: pools::pool(&conninfo(nodes, any)?)?,
            sql: Sql::of(TABLE),
        })
    }

    pub(crate) fn with_sql(mut self, sql: Sql) -> Self {
        self.sql = sql;
        self
    }

    pub(crate) fn writes(&self) -> &Pool {
        &self.writes
    }

    pub(crate) async fn write(&self, client: usize, key: i64) -> (Told, Trouble) {
        let mut trouble = Trouble::default();
        let done = patiently(&mut trouble, || async move {
            pools::insert(&self.writes, &self.sql.insert, client, key).await
        })
        .await;
        (told(done), trouble)
    }

    pub(crate) async fn read(&self, client: usize) -> (Option<Seen>, Trouble) {
        let mut trouble = Trouble::default();
        let keys = patiently(&mut trouble, || async move {
            pools::list(&self.reads, &self.sql.list, client).await
        })
        .await;
        let seen = keys.ok().map(|keys| Seen {
            keys,
            on_replica: None,
        });
        (seen, trouble)
    }
}
