//! Each fault, beside what is left of the nodes, on a cluster of its own. Node 0 is the primary at first.

use std::time::Duration;

use ha_db::postgres::Consistency;
use ha_testbed::postgres::{Cluster, Postgres};

use crate::app::App;
use crate::stage::{BROKEN, Plan, Stage};
use crate::table::Table;
use crate::{Outcome, Words, patroni, pools};

/// A row of the table, and how to come by it.
macro_rules! faults {
    ($words:expr, $table:expr, { $($name:literal => $run:expr,)* }) => {
        $(if $words.wants($name) && $words.goes_on($name) {
            let begun = std::time::Instant::now();
            $run.await.map_err(|error| format!("{}: {error}", $name))?;
            eprintln!("{:<50} {:>6.1} s", $name, begun.elapsed().as_secs_f64());
            eprint!("{}", $table.lines_of($name));
        })*
    };
}

/// Runs those faults that the words ask for.
pub(crate) async fn run(words: &Words, table: &mut Table) -> Outcome<()> {
    let t = table;
    faults!(words, t, {
        "replay paused on one replica" => paused("replay paused on one replica", &[2], t),
        "replay paused on all replicas" => paused("replay paused on all replicas", &[1, 2], t),
        "apply delay 200 ms, reads within 50 ms" =>
            delayed("apply delay 200 ms, reads within 50 ms", within(50), t),
        "apply delay 200 ms, reads within 500 ms" =>
            delayed("apply delay 200 ms, reads within 500 ms", within(500), t),
        "apply delay 200 ms, own writes, wait 50 ms" =>
            delayed("apply delay 200 ms, own writes, wait 50 ms", Plan::default(), t),
        "apply delay 200 ms, own writes, wait 500 ms" =>
            delayed("apply delay 200 ms, own writes, wait 500 ms", waiting(), t),
        "long idle, then one write" => idle("long idle, then one write", t),
        "kill -9, promote" => killed("kill -9, promote", t),
        "SIGSTOP of the postmaster alone" => postmaster("SIGSTOP of the postmaster alone", t),
        "SIGSTOP of all, promote" => frozen("SIGSTOP of all, promote", false, t),
        "SIGSTOP of all, promote, SIGCONT" => frozen("SIGSTOP of all, promote, SIGCONT", true, t),
        "promote, all others follow" => promoted("promote, all others follow", t),
        "old primary comes back read-write" => back("old primary comes back read-write", t),
        "two primaries, the old one listed first" =>
            two("two primaries, the old one listed first", [0, 1, 2], t),
        "two primaries, the new one listed first" =>
            two("two primaries, the new one listed first", [1, 0, 2], t),
        "lost tail" => lost_tail("lost tail", t),
        "diverged standby" => diverged("diverged standby", t),
        "partition: cut" => partition("partition: cut", Cut::Reset, t),
        "partition: drop" => partition("partition: drop", Cut::Drop, t),
        "partition: one way, to the server" => partition("partition: one way, to the server", Cut::ToServer, t),
        "partition: one way, to the clients" => partition("partition: one way, to the clients", Cut::ToClient, t),
        "partition: reject what is new" => rejected("partition: reject what is new", t),
        "pool exhausted" => exhausted("pool exhausted", t),
        "recovery conflict" => conflicts("recovery conflict", t),
        "all down, up as 0, 1, 2" => all_down("all down, up as 0, 1, 2", [0, 1, 2], t),
        "all down, up as 2, 1, 0" => all_down("all down, up as 2, 1, 0", [2, 1, 0], t),
        "all down, up as 1, 0, 2" => all_down("all down, up as 1, 0, 2", [1, 0, 2], t),
    });
    patroni::run(words, t).await
}

async fn paused(name: &str, replicas: &[usize], table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.broke();
    for replica in replicas {
        stage.bed.cluster.pause_replay(*replica).await?;
    }
    stage.hold(BROKEN).await;
    for replica in replicas {
        stage.bed.cluster.resume_replay(*replica).await?;
    }
    stage.finish(name, table).await
}

/// Reads ask for a bound, and may show what is as old as that.
fn within(ms: u64) -> Plan {
    let budget = Duration::from_millis(ms);
    Plan {
        consistency: Consistency::Bounded(budget),
        budget,
        // A lag is known to one interval between probes, so that a bound of 50 ms needs more of them.
        ours: |builder| builder.probe_interval(Duration::from_millis(10)),
        ..Plan::default()
    }
}

fn waiting() -> Plan {
    Plan {
        ours: |builder| builder.replica_wait(Duration::from_millis(500)),
        ..Plan::default()
    }
}

async fn delayed(name: &str, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(plan).await?;
    stage.broke();
    for replica in [1, 2] {
        let delay = Duration::from_millis(200);
        stage.bed.cluster.delay_replay(replica, delay).await?;
    }
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

async fn idle(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.loads.iter().for_each(|load| load.writes(false));
    stage.hold(2 * BROKEN).await;
    stage.loads.iter().for_each(|load| load.writes(true));
    // The rest was asked for; what counts is what comes after it.
    for load in &stage.loads {
        load.all_write(BROKEN).await;
    }
    stage.broke();
    stage.hold(BROKEN / 3).await;
    stage.finish(name, table).await
}

async fn killed(name: &str, table: &mut Table) -> Outcome<()> {
    for _ in 0..3 {
        let mut stage = Stage::start(Plan::default()).await?;
        stage.broke();
        stage.bed.cluster.nodes[0].kill().await?;
        stage.promote(1).await?;
        stage.hold(BROKEN / 2).await;
        stage.finish(name, table).await?;
    }
    Ok(())
}

async fn postmaster(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.broke();
    stage.bed.cluster.nodes[0].freeze_postmaster()?;
    stage.hold(BROKEN).await;
    stage.bed.cluster.nodes[0].thaw()?;
    stage.finish(name, table).await
}

async fn frozen(name: &str, thaw: bool, table: &mut Table) -> Outcome<()> {
    for _ in 0..2 {
        let mut stage = Stage::start(Plan::default()).await?;
        stage.broke();
        stage.bed.cluster.nodes[0].freeze()?;
        stage.promote(1).await?;
        stage.hold(BROKEN / 2).await;
        if thaw {
            stage.bed.cluster.nodes[0].thaw()?;
        }
        stage.hold(BROKEN).await;
        stage.finish(name, table).await?;
    }
    Ok(())
}

async fn promoted(name: &str, table: &mut Table) -> Outcome<()> {
    for _ in 0..3 {
        let mut stage = Stage::start(Plan::default()).await?;
        stage.broke();
        stage.promote(1).await?;
        stage.bed.cluster.nodes[0].kill().await?;
        follow(&stage.bed.cluster, 2, 1).await?;
        follow(&stage.bed.cluster, 0, 1).await?;
        stage.finish(name, table).await?;
    }
    Ok(())
}

/// A standby that has received more than the new primary has kept cannot follow it before it was rewound.
async fn follow(cluster: &Cluster, index: usize, primary: usize) -> Outcome<()> {
    cluster.nodes[index].kill().await?;
    Ok(cluster.follow(index, primary).await?)
}

async fn back(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.broke();
    stage.bed.cluster.nodes[0].kill().await?;
    stage.promote(1).await?;
    stage.hold(BROKEN / 3).await;
    stage.bed.cluster.nodes[0].start().await?;
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

async fn two(name: &str, order: [usize; 3], table: &mut Table) -> Outcome<()> {
    let plan = Plan {
        order,
        ..Plan::default()
    };
    let mut stage = Stage::start(plan).await?;
    stage.broke();
    stage.promote(1).await?;
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

/// Both replicas lack the end of the log when the primary dies.
async fn lost_tail(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    for replica in [1, 2] {
        stage.bed.cluster.stop_receiving(replica).await?;
    }
    stage.hold(BROKEN / 6).await;
    stage.broke();
    stage.bed.cluster.nodes[0].kill().await?;
    stage.promote(1).await?;
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

/// The one that is promoted lacks what the other replica goes on showing.
async fn diverged(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.bed.cluster.stop_receiving(1).await?;
    stage.hold(BROKEN / 6).await;
    stage.broke();
    stage.bed.cluster.nodes[0].kill().await?;
    stage.promote(1).await?;
    stage.hold(BROKEN).await;
    stage.finish(name, table).await
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    Reset,
    Drop,
    ToServer,
    ToClient,
}

/// The primary cannot be reached, goes on, and can be reached again after another was promoted.
async fn partition(name: &str, cut: Cut, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::linked()).await?;
    stage.broke();
    let link = &stage.bed.links[0];
    match cut {
        Cut::Reset => link.cut().await?,
        Cut::Drop => link.silence().await?,
        Cut::ToServer => link.silence_to_server().await?,
        Cut::ToClient => link.silence_to_client().await?,
    }
    stage.promote(1).await?;
    stage.hold(BROKEN / 2).await;
    stage.bed.links[0].restore().await?;
    stage.hold(BROKEN / 2).await;
    stage.finish(name, table).await
}

async fn rejected(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::linked()).await?;
    stage.broke();
    stage.bed.links[0].refuse().await?;
    stage.hold(BROKEN).await;
    stage.bed.links[0].restore().await?;
    stage.finish(name, table).await
}

/// Somebody takes every connection to the primary and keeps it.
async fn exhausted(name: &str, table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.broke();
    let (mut ours, mut libpq) = (Vec::new(), Vec::new());
    for load in &stage.loads {
        match load.app() {
            App::Ours(app) => {
                for router in app.routers() {
                    for _ in 0..pools::SIZE {
                        ours.extend(router.write().await);
                    }
                }
            }
            App::Libpq(app) => {
                for _ in 0..pools::SIZE {
                    libpq.extend(app.writes().get().await);
                }
            }
            _ => {}
        }
    }
    stage.hold(BROKEN / 2).await;
    drop(ours);
    drop(libpq);
    stage.hold(BROKEN / 2).await;
    stage.finish(name, table).await
}

/// Replicas that let no read hold up the log, and a primary that cleans up all the time.
async fn conflicts(name: &str, table: &mut Table) -> Outcome<()> {
    let servers = Postgres::primary()
        .replicas(2)
        .setting("hot_standby_feedback", "off")
        .setting("max_standby_streaming_delay", "0");
    let plan = Plan {
        servers,
        read_ms: 20,
        ..Plan::default()
    };
    let mut stage = Stage::start(plan).await?;
    let client = stage.bed.cluster.nodes[0].client().await?;
    client
        .batch_execute(
            "CREATE TABLE churn (v int); INSERT INTO churn SELECT generate_series(1, 100)",
        )
        .await?;
    stage.broke();
    let end = std::time::Instant::now() + BROKEN;
    while std::time::Instant::now() < end {
        client.batch_execute("UPDATE churn SET v = v + 1").await?;
        client.batch_execute("VACUUM churn").await?;
        stage.hold(Duration::from_millis(40)).await;
    }
    stage.finish(name, table).await
}

async fn all_down(name: &str, order: [usize; 3], table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::start(Plan::default()).await?;
    stage.broke();
    for node in &stage.bed.cluster.nodes {
        node.kill().await?;
    }
    stage.hold(BROKEN / 3).await;
    for index in order {
        stage.bed.cluster.nodes[index].start().await?;
        stage.hold(BROKEN / 6).await;
    }
    for load in &stage.loads {
        load.all_write(crate::bed::LIMIT).await;
    }
    stage.finish(name, table).await
}
