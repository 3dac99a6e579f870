//! Each fault, on servers of its own.

use std::time::{Duration, Instant};

use ha_testbed::redis::MASTER_NAME;
use redis::{Value, cmd};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{Plan, Stage};
use crate::table::Table;
use crate::{LIMIT, Outcome, Words};

/// How long something stays broken that nobody repairs.
const BROKEN: Duration = Duration::from_secs(6);
const FROZEN: Duration = Duration::from_secs(14);
/// How long a store is gone, for who is in a hurry.
const GONE: Duration = Duration::from_secs(60);
const GONE_QUICK: Duration = Duration::from_secs(8);

/// A row of the table, and how to come by it.
macro_rules! faults {
    ($words:expr, $table:expr, { $($name:literal => $run:expr,)* }) => {
        $(if $words.wants($name) && $words.goes_on($name) {
            let begun = Instant::now();
            $run($name).await.map_err(|error| format!("{}: {error}", $name))?;
            eprintln!("{:<40} {:>6.1} s", $name, begun.elapsed().as_secs_f64());
            eprint!("{}", $table.lines_of($name));
        })*
    };
}

/// Runs those faults that the words ask for.
pub(crate) async fn run(words: &Words, t: &mut Table) -> Outcome<()> {
    let gone = if words.quick { GONE_QUICK } else { GONE };
    faults!(words, t, {
        "nothing" => async |name| nothing(name, Plan::Sentinel, t).await,
        "nothing, behind links" => async |name| nothing(name, Plan::Linked, t).await,
        "kill -9 of the Redis master" => async |name| killed(name, t).await,
        "SIGSTOP of the Redis master for 14 s" => async |name| frozen(name, t).await,
        "SENTINEL FAILOVER" => async |name| failed_over(name, t).await,
        "FLUSHALL" => async |name| flushed(name, t).await,
        "Redis gone for a minute" => async |name| gone_for(name, Gone::Redis, gone, t).await,
        "PostgreSQL stop -m immediate" => async |name| gone_for(name, Gone::Postgres, BROKEN, t).await,
        "PostgreSQL failover by Patroni" => async |name| patroni(name, t).await,
        "both gone for a minute" => async |name| gone_for(name, Gone::Both, gone, t).await,
        "Redis cut off: reset" => async |name| partition(name, 0, Cut::Reset, t).await,
        "Redis cut off: silent" => async |name| partition(name, 0, Cut::Silent, t).await,
        "PostgreSQL cut off: reset" => async |name| partition(name, 1, Cut::Reset, t).await,
        "PostgreSQL cut off: silent" => async |name| partition(name, 1, Cut::Silent, t).await,
    });
    Ok(())
}

/// What the load itself does to the machine.
async fn nothing(name: &str, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(plan).await?;
    stage.broke();
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

async fn killed(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Sentinel).await?;
    let old = stage.redis.master().await?;
    stage.broke();
    stage.redis.nodes[old].kill().await?;
    stage.redis.wait_master_other_than(old, LIMIT).await?;
    stage.finish(name, table).await
}

/// The old master wakes up after another was promoted, and takes writes until it is told.
async fn frozen(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Sentinel).await?;
    let old = stage.redis.master().await?;
    stage.broke();
    stage.redis.nodes[old].freeze()?;
    stage.redis.wait_master_other_than(old, LIMIT).await?;
    stage.hold(FROZEN).await;
    stage.redis.nodes[old].thaw()?;
    wait_demoted(&stage, old).await?;
    stage.finish(name, table).await
}

async fn failed_over(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Sentinel).await?;
    let old = stage.redis.master().await?;
    let mut failover = cmd("SENTINEL");
    failover.arg("FAILOVER").arg(MASTER_NAME);
    stage.broke();
    stage.redis.sentinels[0].command::<()>(&failover).await?;
    stage.redis.wait_master_other_than(old, LIMIT).await?;
    wait_demoted(&stage, old).await?;
    stage.finish(name, table).await
}

async fn wait_demoted(stage: &Stage, old: usize) -> Outcome<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let role: Result<Vec<Value>, _> = stage.redis.nodes[old].command(&cmd("ROLE")).await;
        let replica = Value::BulkString(b"slave".to_vec());
        if role.is_ok_and(|role| role.first() == Some(&replica)) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!("the old master is no replica after {LIMIT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn flushed(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Sentinel).await?;
    let master = stage.redis.master().await?;
    stage.broke();
    let flush = cmd("FLUSHALL");
    stage.redis.nodes[master].command::<()>(&flush).await?;
    stage.finish(name, table).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Redis,
    Postgres,
    Both,
}

/// The servers are gone and come back, each with what it has on its disk: PostgreSQL with all that it committed, Redis with nothing.
async fn gone_for(name: &str, what: Gone, time: Duration, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Sentinel).await?;
    stage.broke();
    if what != Gone::Postgres {
        for node in &stage.redis.nodes {
            node.kill().await?;
        }
    }
    if what != Gone::Redis {
        stop_immediately(stage.postgres()?).await?;
    }
    stage.hold(time).await;
    if what != Gone::Redis {
        stage.postgres()?.start().await?;
    }
    if what != Gone::Postgres {
        for node in &stage.redis.nodes {
            node.start().await?;
        }
    }
    stage.finish(name, table).await
}

/// What `pg_ctl stop -m immediate` does: it ends without a checkpoint, and begins with a recovery.
async fn stop_immediately(node: &ha_testbed::postgres::Node) -> Outcome<()> {
    let pid = node
        .process
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    kill_process(pid.ok_or("PostgreSQL does not run")?, Signal::QUIT)?;
    let end = Instant::now() + LIMIT;
    while node.process.is_running() {
        if Instant::now() >= end {
            return Err(format!("PostgreSQL has not ended after {LIMIT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The leader's machine is gone: Patroni, PostgreSQL and all.
async fn patroni(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Patroni).await?;
    let old = stage.patroni()?.wait_leader(LIMIT).await?;
    stage.broke();
    let cluster = stage.patroni()?;
    cluster.kill_node(old).await?;
    cluster.wait_leader_other_than(old, LIMIT).await?;
    stage.finish(name, table).await
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Connections are reset, new ones refused.
    Reset,
    /// Nothing arrives, and nothing says so.
    Silent,
}

async fn partition(name: &str, link: usize, cut: Cut, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::Linked).await?;
    stage.broke();
    let links = stage.links.as_ref().ok_or("the plan asks for links")?;
    match cut {
        Cut::Reset => links[link].cut().await?,
        Cut::Silent => links[link].silence().await?,
    }
    stage.hold(BROKEN).await;
    links[link].restore().await?;
    stage.finish(name, table).await
}
