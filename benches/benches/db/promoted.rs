//! When a server was promoted, seen from the server's side: it is asked all the time, on a connection of its own. And when the
//! router has found out.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::app::App;
use crate::workload::{Report, Workload};

/// Between two looks, which bounds how late a promotion is seen.
const LOOK: Duration = Duration::from_millis(4);
const LIMIT: Duration = Duration::from_millis(500);

/// Looks at some nodes until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    found: mpsc::UnboundedReceiver<Instant>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// `conninfos` are those of nodes that are replicas now.
    pub(crate) fn start(conninfos: impl IntoIterator<Item = String>) -> Self {
        let (tell, found) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for conninfo in conninfos {
            tasks.spawn(look(conninfo, tell.clone()));
        }
        Self {
            found,
            _tasks: tasks,
        }
    }

    /// When the first of them was seen to take writes.
    pub(crate) async fn promoted(&mut self, limit: Duration) -> Option<Instant> {
        tokio::time::timeout(limit, self.found.recv()).await.ok()?
    }
}

async fn look(conninfo: String, tell: mpsc::UnboundedSender<Instant>) {
    loop {
        // A node that is being restarted comes back.
        if let Ok(Some(at)) = watch_one(&conninfo).await {
            let _ = tell.send(at);
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn watch_one(conninfo: &str) -> Result<Option<Instant>, tokio_postgres::Error> {
    let connecting = tokio_postgres::connect(conninfo, NoTls);
    let Ok(connected) = tokio::time::timeout(LIMIT, connecting).await else {
        return Ok(None);
    };
    let (client, connection) = connected?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let role = client.prepare("SELECT NOT pg_is_in_recovery()").await?;
    loop {
        let asked = client.query_one(&role, &[]);
        let Ok(row) = tokio::time::timeout(LIMIT, asked).await else {
            return Ok(None);
        };
        if row?.get(0) {
            return Ok(Some(Instant::now()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// When the routers that write find another primary than `old`.
#[derive(Debug)]
pub(crate) struct Notice(JoinSet<Instant>);

impl Notice {
    pub(crate) fn start(loads: &[Workload], old: &str) -> Self {
        let mut tasks = JoinSet::new();
        for load in loads {
            if let App::Ours(ours) = load.app() {
                let (router, old) = (ours.routers()[0].clone(), old.to_owned());
                tasks.spawn(async move {
                    while router.status().primary.is_none_or(|primary| primary == old) {
                        tokio::time::sleep(LOOK).await;
                    }
                    Instant::now()
                });
            }
        }
        Self(tasks)
    }

    /// Nothing if it has not found it yet.
    pub(crate) fn noticed(&mut self) -> Option<Instant> {
        self.0.try_join_next()?.ok()
    }
}

/// One promotion, as it looked to one contender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promotion {
    /// From the fault to the server's promotion.
    pub(crate) took: Duration,
    /// From the promotion until the router knew of it.
    pub(crate) noticed: Option<Duration>,
    /// From the promotion to each client's next acknowledged write.
    pub(crate) after: Vec<Duration>,
}

impl Promotion {
    pub(crate) fn of(
        fault: Instant,
        promoted: Instant,
        noticed: Option<Instant>,
        report: &Report,
    ) -> Self {
        Self {
            took: promoted - fault,
            noticed: noticed.map(|at| at.saturating_duration_since(promoted)),
            after: report.next_after(promoted),
        }
    }
}
