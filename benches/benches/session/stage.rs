//! All contenders under load on one bed, side by side, while something is broken.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ha_session::{Level, Tiered};
use ha_testbed::link::Link;
use ha_testbed::patroni::{self, Patroni};
use ha_testbed::ports::Reservation;
use ha_testbed::postgres::{self, Postgres};
use ha_testbed::process::{Bed, Process, Spec};
use ha_testbed::redis::{self, Redis};
use ha_testbed::setup::{self, Tool};
use tokio::net::TcpStream;

use crate::app;
use crate::stores::{self, Ours, Theirs, Ways, redis_at, redis_of};
use crate::table::Table;
use crate::users::{Apps, Load, Pace};
use crate::{LIMIT, Outcome};

/// Load before anything breaks.
const BEFORE: Duration = Duration::from_secs(2);
/// Load after it is whole again. Whoever needs longer to notice shows it by a stall without an end.
const AFTER: Duration = Duration::from_secs(4);
/// How long those who can are given to work again before that.
const HEALING: Duration = Duration::from_secs(15);
const PACE: Pace = Pace {
    users: 8,
    rest: Duration::from_millis(60),
};

/// What stands where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A Redis master with two replicas and three Sentinels, and one PostgreSQL.
    Sentinel,
    /// The same with three PostgreSQL nodes under Patroni.
    Patroni,
    /// One Redis and one PostgreSQL, each behind a link.
    Linked,
}

/// The PostgreSQL of a plan.
#[derive(Debug)]
enum Database {
    Single(postgres::Cluster),
    Patroni(patroni::Cluster, Proxy),
}

/// Both tiers under load.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) redis: redis::Cluster,
    database: Database,
    /// To Redis and to PostgreSQL.
    pub(crate) links: Option<[Link; 2]>,
    loads: Vec<Load>,
    theirs: Vec<Theirs>,
    fault: Instant,
}

impl Stage {
    pub(crate) async fn start(plan: Plan) -> Outcome<Self> {
        let redis = match plan {
            Plan::Linked => Redis::single(),
            Plan::Sentinel | Plan::Patroni => Redis::sentinel(3),
        };
        let database = async {
            Outcome::Ok(match plan {
                Plan::Patroni => {
                    let cluster = Patroni::cluster(3).start().await?;
                    let proxy = Proxy::start(&cluster).await?;
                    Database::Patroni(cluster, proxy)
                }
                Plan::Sentinel | Plan::Linked => {
                    Database::Single(Postgres::primary().start().await?)
                }
            })
        };
        let (redis, database) = tokio::join!(redis.start(), database);
        let (redis, database) = (redis?, database?);
        let links = match (plan, &database) {
            (Plan::Linked, Database::Single(cluster)) => Some([
                Link::to(redis.nodes[0].addr()).await?,
                Link::to(cluster.nodes[0].addr()).await?,
            ]),
            _ => None,
        };
        let ways = ways(&redis, &database, links.as_ref())?;
        // The app server that writes and the one that reads.
        let (writer, reader) = tokio::try_join!(Ours::connect(&ways), Ours::connect(&ways))?;
        // What one contender does to its connection is nothing to the other's.
        let url = &ways.redis.0;
        let (write_cache, read_cache) = tokio::try_join!(stores::redis(url), stores::redis(url))?;
        let (their_writer, their_reader) =
            tokio::try_join!(Theirs::connect(&ways), Theirs::connect(&ways))?;
        let durable = |ours: &Ours| {
            let tiered = Tiered::new(ours.redis.clone(), ours.postgres.clone());
            app::ours(tiered, None)
        };
        let cache = |redis, ours: &Ours| {
            let tiered = Tiered::new(redis, ours.postgres.clone());
            app::ours(tiered.level(Level::Cache), None)
        };
        let apps = [
            (
                "ours, Durable",
                Apps {
                    writer: durable(&writer)?,
                    reader: durable(&reader)?,
                },
            ),
            (
                "ours, Cache",
                Apps {
                    writer: cache(write_cache, &writer)?,
                    reader: cache(read_cache, &reader)?,
                },
            ),
            (
                "tower-sessions, Redis",
                Apps {
                    writer: app::theirs(their_writer.redis.clone(), false),
                    reader: app::theirs(their_reader.redis.clone(), false),
                },
            ),
            (
                "tower-sessions, sqlx",
                Apps {
                    writer: app::theirs(their_writer.postgres.clone(), false),
                    reader: app::theirs(their_reader.postgres.clone(), false),
                },
            ),
        ];
        let loads: Vec<Load> = apps
            .into_iter()
            .map(|(who, apps)| Load::start(who, apps, PACE))
            .collect();
        for load in &loads {
            if !load.all_work(LIMIT).await {
                let (who, why) = (load.who, load.last_failure());
                return Err(format!("{who} does not work while nothing is broken: {why}").into());
            }
        }
        tokio::time::sleep(BEFORE).await;
        Ok(Self {
            redis,
            database,
            links,
            loads,
            theirs: vec![their_writer, their_reader],
            fault: Instant::now(),
        })
    }

    /// From now on it is broken.
    pub(crate) fn broke(&mut self) {
        self.fault = Instant::now();
    }

    /// Sleeps until so long after it broke.
    pub(crate) async fn hold(&self, time: Duration) {
        tokio::time::sleep(time.saturating_sub(self.fault.elapsed())).await;
    }

    /// Ends the loads once they have gone on for a while, and adds what their users saw. What broke is whole again, or will never be.
    pub(crate) async fn finish(self, fault: &str, table: &mut Table) -> Outcome<()> {
        let healed = self.loads.iter().map(|load| load.all_work(HEALING));
        futures_util::future::join_all(healed).await;
        tokio::time::sleep(AFTER).await;
        let since = self.fault;
        let finished = self.loads.into_iter().map(|load| async move {
            let who = load.who;
            Outcome::Ok((who, load.finish(since).await?))
        });
        for finished in futures_util::future::join_all(finished).await {
            let (who, report) = finished?;
            table.add(fault, who, report);
        }
        for theirs in self.theirs {
            theirs.close().await;
        }
        Ok(())
    }

    pub(crate) fn postgres(&self) -> Outcome<&postgres::Node> {
        match &self.database {
            Database::Single(cluster) => Ok(&cluster.nodes[0]),
            Database::Patroni(..) => Err("there are three PostgreSQL nodes".into()),
        }
    }

    pub(crate) fn patroni(&self) -> Outcome<&patroni::Cluster> {
        match &self.database {
            Database::Patroni(cluster, _) => Ok(cluster),
            Database::Single(_) => Err("there is no Patroni".into()),
        }
    }
}

fn ways(redis: &redis::Cluster, database: &Database, links: Option<&[Link; 2]>) -> Outcome<Ways> {
    let Some([to_redis, to_postgres]) = links else {
        let redis = redis_of(redis)?;
        return Ok(match database {
            Database::Single(cluster) => single(redis, cluster.nodes[0].addr()),
            Database::Patroni(cluster, proxy) => {
                let nodes = cluster.nodes.iter();
                let nodes = nodes.map(|node| (node.name.clone(), node.app_conninfo()));
                let app = patroni::APP;
                Ways {
                    redis,
                    nodes: nodes.collect(),
                    sqlx: format!("postgres://{app}@127.0.0.1:{}/{app}", proxy.port),
                }
            }
        });
    };
    let redis = redis_at(&format!("redis://{}", to_redis.addr()))?;
    Ok(single(redis, to_postgres.addr()))
}

fn single(redis: (String, fred::prelude::Config), postgres: SocketAddr) -> Ways {
    let (host, port) = (postgres.ip(), postgres.port());
    let conninfo =
        format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=5");
    Ways {
        redis,
        nodes: vec![("postgres-0".to_owned(), conninfo)],
        sqlx: format!("postgres://postgres@{postgres}/postgres"),
    }
}

/// HAProxy that leads to the node that Patroni calls the primary: sqlx knows one address only.
#[derive(Debug)]
struct Proxy {
    port: u16,
    _process: Process,
    _bed: Bed,
    // Given back when the process is gone.
    _port: Reservation,
}

impl Proxy {
    async fn start(cluster: &patroni::Cluster) -> Outcome<Self> {
        let bed = Bed::temporary()?;
        let reservation = Reservation::take(1)?;
        let &[port] = reservation.ports() else {
            return Err("one port was asked for".into());
        };
        let mut config = format!(
            "global\n  maxconn 500\n\
             defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n\
             frontend primary\n  bind 127.0.0.1:{port}\n  default_backend nodes\n\
             backend nodes\n  option httpchk GET /primary\n  http-check expect status 200\n  \
             default-server inter 250ms fall 2 rise 1 on-marked-down shutdown-sessions\n"
        );
        for node in &cluster.nodes {
            let (name, address, rest) = (&node.name, node.addr(), node.rest_addr().port());
            config.push_str(&format!("  server {name} {address} check port {rest}\n"));
        }
        let file = bed.make_dir("proxy")?.join("haproxy.cfg");
        std::fs::write(&file, config)?;
        let spec = Spec::new(
            "proxy",
            setup::find(Tool::HaProxy).ok_or("there is no HAProxy")?,
        )
        .args(["-db", "-f"])
        .arg(&file)
        .port(port);
        let process = bed.spawn(spec)?;
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() >= end {
                return Err(format!("HAProxy does not answer: {}", process.log_tail(20)).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self {
            port,
            _process: process,
            _bed: bed,
            _port: reservation,
        })
    }
}
