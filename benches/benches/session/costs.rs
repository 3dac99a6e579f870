//! What a request with a session costs: commands, statements, cookies, time.
//!
//! Counted over requests that one browser sends one after the other; a script is one command, what runs inside it is shown beside
//! it. The throughput is that of [`CLIENTS`] browsers at once, each with a session of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Router;
use ha_session::{Store, Tiered};
use ha_testbed::postgres::Postgres;
use ha_testbed::redis::Redis;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_sessions_014::SessionStore;

use crate::app::{self, Browser};
use crate::count::{Counters, Counts, sum};
use crate::stores::{self, Ours, Theirs, Ways};
use crate::{Outcome, Words, quantile};

const CLIENTS: usize = 16;
const HOUR: Duration = Duration::from_secs(3600);

/// What a request does with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Untouched,
    Read,
    Modify,
    /// Without having read it.
    Write,
    /// Read, with sliding expiry.
    Sliding,
    /// The same when the idle window has to be started anew.
    Touch,
    /// Modify, and change the id.
    Rotate,
}

const CASES: [Case; 7] = [
    Case::Untouched,
    Case::Read,
    Case::Modify,
    Case::Write,
    Case::Sliding,
    Case::Touch,
    Case::Rotate,
];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Read => "read",
            Self::Modify => "read and write",
            Self::Write => "write without reading",
            Self::Sliding => "sliding expiry, read",
            Self::Touch => "sliding expiry, touch due",
            Self::Rotate => "rotate the id",
        }
    }

    fn route(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Read | Self::Sliding | Self::Touch => "read",
            Self::Modify => "modify",
            Self::Write => "write",
            Self::Rotate => "rotate",
        }
    }

    /// Whether each request adds one to the count in the session.
    fn counts(self) -> bool {
        matches!(self, Self::Modify | Self::Rotate)
    }
}

/// One contender's app, with the layers that the cases need on one store.
struct Contender {
    who: &'static str,
    plain: Router,
    /// Where sessions begin that [`sliding`](Self::sliding) has to extend at their first request.
    short: Router,
    sliding: Router,
}

impl Contender {
    fn ours(who: &'static str, store: impl Store + Clone) -> Outcome<Self> {
        Ok(Self {
            who,
            plain: app::ours(store.clone(), None)?,
            short: app::ours(store.clone(), Some(HOUR))?,
            sliding: app::ours(store, None)?,
        })
    }

    /// Sliding expiry is here to save on every request.
    fn theirs(who: &'static str, store: impl SessionStore + Clone) -> Self {
        let sliding = app::theirs(store.clone(), true);
        Self {
            who,
            plain: app::theirs(store, false),
            short: sliding.clone(),
            sliding,
        }
    }

    fn app(&self, case: Case) -> &Router {
        match case {
            Case::Sliding | Case::Touch => &self.sliding,
            _ => &self.plain,
        }
    }
}

#[derive(Debug)]
struct Line {
    case: Case,
    who: &'static str,
    counts: Counts,
    cookies_set: f64,
    p50: Duration,
    p99: Duration,
    /// Not where each session serves for one request only.
    per_second: Option<f64>,
}

/// By case, then by contender.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    lines: Vec<Line>,
}

/// How much of it is measured.
#[derive(Debug, Clone, Copy)]
struct Amount {
    warm_up: usize,
    counted: usize,
    loaded: Duration,
}

pub(crate) async fn run(words: &Words) -> Outcome<Costs> {
    let amount = if words.quick {
        Amount {
            warm_up: 10,
            counted: 50,
            loaded: Duration::from_millis(300),
        }
    } else {
        Amount {
            warm_up: 100,
            counted: 1000,
            loaded: Duration::from_secs(2),
        }
    };
    let postgres = Postgres::primary().setting("shared_preload_libraries", "pg_stat_statements");
    let (redis, postgres) = tokio::join!(Redis::single().start(), postgres.start());
    let (redis, postgres) = (redis?, postgres?);
    let node = &postgres.nodes[0];
    let ways = Ways {
        redis: stores::redis_of(&redis)?,
        nodes: vec![(node.name.clone(), node.conninfo())],
        sqlx: format!("postgres://postgres@127.0.0.1:{}/postgres", node.port),
    };
    let ours = Ours::connect(&ways).await?;
    let theirs = Theirs::connect(&ways).await?;
    let tiered = Tiered::new(ours.redis.clone(), ours.postgres.clone());
    let contenders = [
        Contender::ours("ours, Redis", ours.redis)?,
        Contender::ours("ours, PostgreSQL", ours.postgres)?,
        Contender::ours("ours, Tiered", tiered)?,
        Contender::theirs("tower-sessions, Redis", theirs.redis.clone()),
        Contender::theirs("tower-sessions, sqlx", theirs.postgres.clone()),
    ];
    let counters = Counters::start(&redis, &postgres).await?;
    let mut costs = Costs::default();
    for case in CASES {
        for contender in &contenders {
            let measured = measure(contender, case, amount, &counters).await;
            let who = contender.who;
            let line = measured.map_err(|error| format!("{}, {who}: {error}", case.name()))?;
            eprintln!("{}", line.cells().join("  "));
            costs.lines.push(line);
        }
    }
    theirs.close().await;
    Ok(costs)
}

async fn measure(
    contender: &Contender,
    case: Case,
    amount: Amount,
    counters: &Counters<'_>,
) -> Outcome<Line> {
    let Amount {
        warm_up, counted, ..
    } = amount;
    let app = contender.app(case);
    // A touch is due once in each session.
    let (begin, sessions) = match case {
        Case::Touch => (&contender.short, warm_up + counted),
        _ => (app, 1),
    };
    let mut browsers = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        browsers.push(Browser::filled(begin).await?.at(app));
    }
    for n in 0..warm_up {
        browsers[n % sessions].get(case.route()).await?;
    }
    let cookies = |browsers: &[Browser]| browsers.iter().map(|one| one.cookies_set).sum::<u64>();
    let cookies_before = cookies(&browsers);
    let before = counters.read().await?;
    let mut took = Vec::with_capacity(counted);
    for n in warm_up..warm_up + counted {
        let begun = Instant::now();
        browsers[n % sessions].get(case.route()).await?;
        took.push(begun.elapsed());
    }
    // What a request leaves to be done after its answer belongs to it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = counters.read().await?;
    let cookies_set = (cookies(&browsers) - cookies_before) as f64 / counted as f64;
    if case.counts() {
        let count: usize = browsers[0].get("read").await?.parse()?;
        if count != warm_up + counted {
            return Err(format!("{count} of {} changes are there", warm_up + counted).into());
        }
    }
    Ok(Line {
        case,
        who: contender.who,
        counts: counters.between(&before, &after, counted),
        cookies_set,
        p50: quantile(&took, 0.5).unwrap_or_default(),
        p99: quantile(&took, 0.99).unwrap_or_default(),
        per_second: match case {
            Case::Touch => None,
            _ => Some(throughput(app, case, amount.loaded).await?),
        },
    })
}

/// Requests per second of some browsers at once.
async fn throughput(app: &Router, case: Case, loaded: Duration) -> Outcome<f64> {
    let mut browsers = Vec::new();
    for _ in 0..CLIENTS {
        browsers.push(Browser::filled(app).await?);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut browser in browsers {
        tasks.spawn(async move {
            let mut sent = 0_u32;
            while begun.elapsed() < loaded {
                browser.get(case.route()).await?;
                sent += 1;
            }
            Outcome::Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended??;
    }
    Ok(f64::from(sent) / begun.elapsed().as_secs_f64())
}

impl Line {
    fn cells(&self) -> [String; 10] {
        let each = |count: f64| format!("{count:.2}");
        let us = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e6);
        [
            self.case.name().to_owned(),
            self.who.to_owned(),
            each(sum(&self.counts.commands)),
            each(sum(&self.counts.inside)),
            each(sum(&self.counts.statements)),
            each(sum(&self.counts.beside)),
            each(self.cookies_set),
            us(self.p50),
            us(self.p99),
            self.per_second
                .map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        ]
    }

    fn row(&self) -> Value {
        json!({
            "bench": "session",
            "part": "costs",
            "case": self.case.name(),
            "who": self.who,
            "redis_commands": self.counts.commands,
            "redis_commands_inside_scripts": self.counts.inside,
            "postgresql_statements": self.counts.statements,
            "postgresql_statements_beside": self.counts.beside,
            "cookies_set": self.cookies_set,
            "p50_ns": self.p50.as_nanos() as u64,
            "p99_ns": self.p99.as_nanos() as u64,
            "per_second": self.per_second,
        })
    }
}

impl Costs {
    pub(crate) fn rows(&self) -> Vec<Value> {
        self.lines.iter().map(Line::row).collect()
    }

    pub(crate) fn table(&self) -> String {
        let head = [
            "a request that",
            "who",
            "Redis",
            "in scripts",
            "PostgreSQL",
            "beside",
            "Set-Cookie",
            "p50 µs",
            "p99 µs",
            "per s",
        ];
        let lines: Vec<_> = self.lines.iter().map(Line::cells).collect();
        ha_benches::markdown::table(&head, &lines, 2)
    }

    /// What was asked, by name: the counts in the table are sums of these.
    pub(crate) fn legend(&self) -> String {
        let named = |counts: &BTreeMap<String, f64>| {
            let named = counts
                .iter()
                .map(|(name, each)| format!("{each:.2} {name}"));
            named.collect::<Vec<_>>().join("; ")
        };
        let mut text = String::new();
        for line in &self.lines {
            let counts = &line.counts;
            let parts = [
                ("", &counts.commands),
                ("in scripts: ", &counts.inside),
                ("", &counts.statements),
                ("beside: ", &counts.beside),
            ];
            for (of, counts) in parts {
                if !counts.is_empty() {
                    let (case, who) = (line.case.name(), line.who);
                    text.push_str(&format!("{case}, {who}: {of}{}\n", named(counts)));
                }
            }
        }
        text
    }
}
