//! A service as its clients see it: each of the ways to use a primary and its replicas behind the same two calls.

use std::time::Duration;

use tokio::time::Instant;

use crate::Outcome;
use crate::bare::Bare;
use crate::gitlab::Gitlab;
use crate::libpq::Libpq;
use crate::ours::Ours;

/// How long a request may take, its repetitions included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts of one request.
const PAUSE: Duration = Duration::from_millis(5);

/// The name and the connection string of each node, in the order in which they are given.
pub(crate) type Nodes = Vec<(String, String)>;

/// Rows of one contender, so that all can run at once. A key is there as often as it was applied.
pub(crate) fn schema(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (client int NOT NULL, key bigint NOT NULL); CREATE INDEX ON {name} (client)"
    )
}

/// The two statements of every contender. Sent with their types, they take one round trip without being prepared.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    pub(crate) insert: String,
    pub(crate) list: String,
    pub(crate) all: String,
}

impl Sql {
    pub(crate) fn of(name: &str) -> Self {
        Self::taking(name, 0)
    }

    /// Reads that take so many milliseconds inside the server.
    pub(crate) fn taking(name: &str, ms: u64) -> Self {
        let from = match ms {
            0 => name.to_owned(),
            ms => format!("(SELECT pg_sleep({ms}e-3) OFFSET 0) pause, {name}"),
        };
        Self {
            insert: format!("INSERT INTO {name} VALUES ($1, $2)"),
            list: format!("SELECT key FROM {from} WHERE client = $1"),
            all: format!("SELECT client, key FROM {name}"),
        }
    }
}

/// What the client of a write was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Acknowledged,
    /// Nothing was changed, for certain.
    Refused,
    Unknown,
}

/// How one request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trouble {
    /// Attempts that ended in an error, the last included.
    pub(crate) errors: u64,
    /// Times that the client was told of an acknowledged write that is gone.
    pub(crate) reported: u64,
}

/// What a read found.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) keys: Vec<i64>,
    /// Whether a replica served it, where the contender knows.
    pub(crate) on_replica: Option<bool>,
}

/// What an attempt says about the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    /// Nothing was done, because the client had to be told first of a write that is gone: it begins anew.
    Lost,
    /// Nothing was done, and nothing will be.
    Refused,
    /// An attempt that must not be repeated: it may have been applied.
    Stop,
}

/// What the client of a write was told at the end.
pub(crate) fn told(done: Result<(), Option<Next>>) -> Told {
    match done {
        Ok(()) => Told::Acknowledged,
        Err(Some(Next::Lost | Next::Refused)) => Told::Refused,
        Err(_) => Told::Unknown,
    }
}

/// Repeats `attempt` until it succeeds, says stop, or the patience ends. The future is dropped when time is up.
pub(crate) async fn patiently<T, F>(
    trouble: &mut Trouble,
    attempt: impl Fn() -> F,
) -> Result<T, Option<Next>>
where
    F: Future<Output = Result<T, Next>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        let ended = tokio::time::timeout_at(end, attempt()).await;
        let next = match ended {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(next)) => next,
            Err(_) => {
                trouble.errors += 1;
                return Err(None);
            }
        };
        match next {
            Next::Lost => trouble.reported += 1,
            Next::Again | Next::Refused | Next::Stop => trouble.errors += 1,
        }
        if next != Next::Again || Instant::now() + PAUSE >= end {
            return Err(Some(next));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One contender, connected to a cluster.
#[derive(Debug)]
pub(crate) enum App {
    Ours(Ours),
    Libpq(Libpq),
    Gitlab(Gitlab),
    Bare(Bare),
}

impl App {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Libpq(_) => "libpq",
            Self::Gitlab(_) => "gitlab",
            Self::Bare(_) => "deadpool",
        }
    }

    /// Returns when it could serve.
    pub(crate) async fn ready(&self, replicas: usize) -> Outcome<()> {
        match self {
            Self::Ours(ours) => ours.ready(replicas).await,
            _ => Ok(()),
        }
    }

    pub(crate) async fn write(&self, client: usize, key: i64) -> (Told, Trouble) {
        match self {
            Self::Ours(ours) => ours.write(client, key).await,
            Self::Libpq(libpq) => libpq.write(client, key).await,
            Self::Gitlab(gitlab) => gitlab.write(client, key).await,
            Self::Bare(bare) => bare.write(client, key).await,
        }
    }

    pub(crate) async fn read(&self, client: usize) -> (Option<Seen>, Trouble) {
        match self {
            Self::Ours(ours) => ours.read(client).await,
            Self::Libpq(libpq) => libpq.read(client).await,
            Self::Gitlab(gitlab) => gitlab.read(client).await,
            Self::Bare(bare) => bare.read(client).await,
        }
    }
}
