//! Clients that write, and read what they wrote, while things break; and the judgement of what they were told.
//!
//! Each client is a pair of tasks that carry one token, as two tabs of a browser do: one writes, the other reads, so that
//! reads are seen while writes wait. A read must show everything that its client was acknowledged before it began, and
//! everything that the client has read before. Once a client was told that a write of its is gone, it begins anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ha_testbed::oracle::{Oracle, PhantomReason, Violation};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, PATIENCE, Told, Trouble};

/// How many clients, how long each rests after a request, and what they put up with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) clients: usize,
    pub(crate) rest: Duration,
    /// How old what a read shows may be: zero for a client's own writes, the bound where one is asked for.
    pub(crate) budget: Duration,
}

/// What all requests came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Requests that did not get what they asked for within the patience.
    pub(crate) misses: u64,
    /// Attempts that ended in an error which the caller saw.
    pub(crate) errors: u64,
    /// Reads by who served them; where the contender does not know, in neither.
    pub(crate) on_replicas: u64,
    pub(crate) on_primary: u64,
    pub(crate) stale: u64,
    /// Acknowledged, gone, and the client was not told.
    pub(crate) lost: u64,
    /// Acknowledged, gone, and the client was told.
    pub(crate) reported: u64,
    pub(crate) duplicates: u64,
    /// Refused and there; or, with a promotion that loses a tail, read before it was acknowledged and gone.
    pub(crate) phantoms: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            requests,
            misses,
            errors,
            on_replicas,
            on_primary,
            stale,
            lost,
            reported,
            duplicates,
            phantoms,
        } = self;
        for (ours, theirs) in [
            (requests, other.requests),
            (misses, other.misses),
            (errors, other.errors),
            (on_replicas, other.on_replicas),
            (on_primary, other.on_primary),
            (stale, other.stale),
            (lost, other.lost),
            (reported, other.reported),
            (duplicates, other.duplicates),
            (phantoms, other.phantoms),
        ] {
            *ours += theirs;
        }
    }

    /// `None` where the contender does not know who served its reads.
    pub(crate) fn replica_ratio(&self) -> Option<f64> {
        let known = self.on_replicas + self.on_primary;
        (known > 0).then(|| self.on_replicas as f64 / known as f64)
    }
}

/// A time without an acknowledged write. One that the measurement ended is only a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gap {
    pub(crate) length: Duration,
    pub(crate) open: bool,
}

#[derive(Debug)]
struct Client {
    /// How often it began anew, which the oracle takes for another client.
    life: usize,
    next: i64,
    /// When.
    acknowledged: Vec<Instant>,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    oracle: Oracle,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Shared {
    app: App,
    pace: Pace,
    state: Mutex<State>,
    orders: watch::Sender<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Go,
    /// Only reads.
    NoWrites,
    Stop,
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Workload {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) gaps: Vec<Gap>,
    acknowledged: Vec<Vec<Instant>>,
}

impl Report {
    /// How long after `at` each client was acknowledged its next write, where it was.
    pub(crate) fn next_after(&self, at: Instant) -> Vec<Duration> {
        let next = |all: &Vec<Instant>| all.iter().find(|ack| **ack >= at).map(|ack| *ack - at);
        self.acknowledged.iter().filter_map(next).collect()
    }
}

impl Workload {
    pub(crate) fn start(app: App, pace: Pace) -> Self {
        let clients = (0..pace.clients).map(|_| Client {
            life: 0,
            next: 0,
            acknowledged: Vec::new(),
        });
        let shared = Arc::new(Shared {
            app,
            pace,
            state: Mutex::new(State {
                counts: Counts::default(),
                oracle: Oracle::new(),
                clients: clients.collect(),
            }),
            orders: watch::Sender::new(Order::Go),
        });
        let mut tasks = JoinSet::new();
        for client in 0..pace.clients {
            tasks.spawn(Arc::clone(&shared).write_on(client));
            tasks.spawn(Arc::clone(&shared).read_on(client));
        }
        Self { shared, tasks }
    }

    pub(crate) fn app(&self) -> &App {
        &self.shared.app
    }

    pub(crate) fn name(&self) -> &'static str {
        self.shared.app.name()
    }

    /// Writes rest or go on; reads go on.
    pub(crate) fn writes(&self, go: bool) {
        let order = if go { Order::Go } else { Order::NoWrites };
        self.shared.orders.send_replace(order);
    }

    /// Returns when every client has been acknowledged a write since now, or after `limit`; says which.
    pub(crate) async fn all_write(&self, limit: Duration) -> bool {
        let since = Instant::now();
        let wrote = |client: &Client| client.acknowledged.last().is_some_and(|at| *at > since);
        while !self.shared.state().clients.iter().all(wrote) {
            if since.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Ends the load and judges it. `truth` are all rows there are at the end, `fault` is when the thing broke.
    pub(crate) async fn stop(
        mut self,
        fault: Instant,
        truth: impl AsyncFnOnce() -> crate::Outcome<Vec<(i32, i64)>>,
    ) -> crate::Outcome<Report> {
        self.shared.orders.send_replace(Order::Stop);
        let ended = Instant::now();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE + Duration::from_secs(2), all).await?;
        let rows = truth().await?;
        let mut state = self.shared.state();
        let gaps = state
            .clients
            .iter()
            .map(|client| longest_gap(&client.acknowledged, fault, ended))
            .collect();
        let lives: Vec<usize> = state.clients.iter().map(|client| client.life).collect();
        let oracle = std::mem::take(&mut state.oracle);
        let verdict = oracle.settle(
            rows.iter()
                .map(|(client, key)| name_key(*client as usize, *key)),
        );
        let mut counts = state.counts;
        for violation in &verdict.violations {
            match violation {
                Violation::Stale { .. } => counts.stale += 1,
                Violation::Duplicated { .. } => counts.duplicates += 1,
                Violation::Phantom { reason, .. } if *reason != PhantomReason::NeverWritten => {
                    counts.phantoms += 1;
                }
                Violation::Lost { client, .. } => {
                    if told_of(client, &lives) {
                        counts.reported += 1;
                    } else {
                        counts.lost += 1;
                    }
                }
                other => return Err(format!("the bench misjudged: {other}").into()),
            }
        }
        let clients = state.clients.iter_mut();
        let acknowledged = clients.map(|client| std::mem::take(&mut client.acknowledged));
        Ok(Report {
            counts,
            gaps,
            acknowledged: acknowledged.collect(),
        })
    }
}

/// What the oracle calls a client in one of its lives.
fn name(client: usize, life: usize) -> String {
    format!("{client}.{life}")
}

fn name_key(client: usize, key: i64) -> String {
    format!("{client}/{key}")
}

/// Whether the client that wrote under this name has begun anew since.
fn told_of(name: &str, lives: &[usize]) -> bool {
    let split = name.split_once('.');
    let parsed = split.and_then(|(client, life)| {
        Some((client.parse::<usize>().ok()?, life.parse::<usize>().ok()?))
    });
    parsed.is_some_and(|(client, life)| lives.get(client).is_some_and(|last| life < *last))
}

/// The longest time between two acknowledgements of which the later is after `fault`.
fn longest_gap(acknowledged: &[Instant], fault: Instant, ended: Instant) -> Gap {
    let pairs = acknowledged.windows(2).filter(|pair| pair[1] >= fault);
    let longest = pairs.map(|pair| pair[1] - pair[0]).max();
    let last = acknowledged.last().copied().unwrap_or(fault);
    let rest = ended.saturating_duration_since(last);
    match longest {
        Some(longest) if longest >= rest => Gap {
            length: longest,
            open: false,
        },
        _ => Gap {
            length: rest,
            open: true,
        },
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it may go on; `false` when it is over.
    async fn may(&self, orders: &mut watch::Receiver<Order>, write: bool) -> bool {
        tokio::time::sleep(self.pace.rest).await;
        let may = |order: &Order| *order != Order::NoWrites || !write;
        match orders.wait_for(may).await {
            Ok(order) => *order != Order::Stop,
            Err(_) => false,
        }
    }

    async fn write_on(self: Arc<Self>, client: usize) {
        let mut orders = self.orders.subscribe();
        while self.may(&mut orders, true).await {
            let (key, named) = {
                let mut state = self.state();
                let key = state.clients[client].next;
                state.clients[client].next += 1;
                let (life, named) = (state.clients[client].life, name_key(client, key));
                let who = name(client, life);
                state.oracle.invoke(&who, &named, Instant::now());
                (key, named)
            };
            let (told, trouble) = self.app.write(client, key).await;
            let now = Instant::now();
            let mut state = self.state();
            match told {
                Told::Acknowledged => {
                    state.oracle.acknowledge(&named, now);
                    state.clients[client].acknowledged.push(now);
                }
                Told::Refused => state.oracle.refuse(&named),
                Told::Unknown => state.oracle.unknown(&named),
            }
            let answered = told == Told::Acknowledged || trouble.reported > 0;
            state.count(client, answered, trouble);
        }
    }

    async fn read_on(self: Arc<Self>, client: usize) {
        let mut orders = self.orders.subscribe();
        while self.may(&mut orders, false).await {
            let life = self.state().clients[client].life;
            let began = Instant::now();
            let (seen, trouble) = self.app.read(client).await;
            let returned = Instant::now();
            let mut state = self.state();
            if let Some(seen) = &seen {
                match seen.on_replica {
                    Some(true) => state.counts.on_replicas += 1,
                    Some(false) => state.counts.on_primary += 1,
                    None => {}
                }
                // Told of a loss meanwhile, by this read or by a write: what it may expect is not known.
                if trouble.reported == 0 && state.clients[client].life == life {
                    let keys = seen.keys.iter().map(|key| name_key(client, *key));
                    let entitled = began - self.pace.budget;
                    let who = name(client, life);
                    state.oracle.read(&who, entitled, returned, keys);
                }
            }
            let answered = seen.is_some() || trouble.reported > 0;
            state.count(client, answered, trouble);
        }
    }
}

impl State {
    fn count(&mut self, client: usize, answered: bool, trouble: Trouble) {
        self.counts.requests += 1;
        self.counts.misses += u64::from(!answered);
        self.counts.errors += trouble.errors;
        self.clients[client].life += usize::from(trouble.reported > 0);
    }
}
