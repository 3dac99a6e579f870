use std::time::Duration;

use rustix::process::Signal;

use super::*;
use crate::{StartError, setup};

const DEADLINE: Duration = Duration::from_secs(30);

fn sleeper(name: &str) -> Spec {
    Spec::new(name, "/bin/sleep").arg("600")
}

#[tokio::test]
async fn a_bed_cleans_up_even_when_its_watcher_was_killed() {
    let bed = Bed::temporary().unwrap();
    let dir = bed.dir().to_owned();
    let _process = bed.spawn(sleeper("one")).unwrap();
    tree::signal(bed.janitor_pid(), Signal::KILL).unwrap();
    drop(_process);
    drop(bed);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_process_can_be_killed_and_started_again_under_the_same_handle() {
    let bed = Bed::temporary().unwrap();
    let process = bed.spawn(sleeper("one")).unwrap();
    let first = process.pid().unwrap();
    process.start().unwrap();
    assert_eq!(
        process.pid(),
        Some(first),
        "starting what runs changes nothing"
    );
    process.kill().await.unwrap();
    process.kill().await.unwrap();
    assert!(!process.is_running() && process.pid().is_none());
    process.start().unwrap();
    assert_ne!(process.pid().unwrap(), first);
    assert!(process.is_running());
}

#[tokio::test]
async fn terminate_lets_a_process_end_by_itself_and_kills_one_that_will_not() {
    let bed = Bed::temporary().unwrap();
    let polite = "trap 'echo bye > last; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    for (name, script, says_bye) in [("polite", polite, true), ("deaf", deaf, false)] {
        let process = bed
            .spawn(Spec::new(name, "/bin/sh").args(["-c", script]))
            .unwrap();
        let up = async || {
            if process.log_tail(1) == "up" {
                Ok(())
            } else {
                Err("not up".to_owned())
            }
        };
        process.wait_until("up", DEADLINE, up).await.unwrap();
        process
            .terminate(if says_bye {
                DEADLINE
            } else {
                Duration::from_millis(100)
            })
            .await
            .unwrap();
        assert!(!process.is_running());
        assert_eq!(process.dir().join("last").exists(), says_bye);
    }
}

#[tokio::test]
async fn a_killed_supervisor_leaves_its_helpers_until_it_is_killed_as_a_whole() {
    let bed = Bed::temporary().unwrap();
    let process = bed
        .spawn(Spec::new("one", "/bin/sh").args(["-c", "setsid sleep 600 & wait"]))
        .unwrap();
    let two = async || {
        if tree::members(process.dir(), None).len() == 2 {
            Ok(())
        } else {
            Err(String::new())
        }
    };
    process
        .wait_until("running with its helper", DEADLINE, two)
        .await
        .unwrap();
    process.kill_alone().unwrap();
    assert!(!process.is_running());
    assert_eq!(tree::members(process.dir(), None).len(), 1);
    process.kill().await.unwrap();
    assert!(tree::members(process.dir(), None).is_empty());
}

/// What a shell of the user's would be: it works in a bed's directory and nobody of the bed started it.
struct Bystander(std::process::Child);

impl Bystander {
    fn at(dir: &std::path::Path) -> Self {
        let mut sleep = std::process::Command::new("sleep");
        Self(sleep.arg("600").current_dir(dir).spawn().unwrap())
    }

    /// Whether it runs, not stopped.
    fn is_undisturbed(&self) -> bool {
        let pid = self.0.id().cast_signed();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        tree::member(pid, &stat).is_some_and(|member| !member.stopped)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_shell_that_works_in_the_directory_is_neither_frozen_nor_killed() {
    let bed = Bed::temporary().unwrap();
    let process = bed.spawn(sleeper("one")).unwrap();
    let shell = Bystander::at(process.dir());
    process.freeze().unwrap();
    assert!(shell.is_undisturbed());
    process.kill().await.unwrap();
    assert!(shell.is_undisturbed());
    drop((process, bed));
    assert!(shell.is_undisturbed());
}

/// What runs a bed and is killed; prints the process's id and directory.
#[test]
#[cfg(target_os = "linux")]
fn the_watcher_of_a_killed_owner_ends_the_bed_and_nobody_elses_shell() {
    const OWNER: &str = "HA_TESTBED_TEST_OWNER";
    if std::env::var_os(OWNER).is_some() {
        let bed = Bed::temporary().unwrap();
        // The second one writes its title over its environment, as servers do, for what the watcher can see.
        let bare = "exec env -i /bin/sleep 600";
        let one = bed.spawn(sleeper("one")).unwrap();
        let two = bed
            .spawn(Spec::new("two", "/bin/sh").args(["-c", bare]))
            .unwrap();
        let silent = "exec /bin/sleep 600 >/dev/null 2>&1";
        let three = bed
            .spawn(Spec::new("three", "/bin/sh").args(["-c", silent]))
            .unwrap();
        let pids = [&one, &two, &three].map(|process| process.pid().unwrap());
        println!(
            "bed {} {} {} {}",
            one.dir().display(),
            pids[0],
            pids[1],
            pids[2]
        );
        std::thread::sleep(DEADLINE);
        return;
    }
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("process::tests::the_watcher_of_a_killed_owner_ends_the_bed_and_nobody_elses_shell")
        .env(OWNER, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let line = lines
        .find_map(|line| Some(line.unwrap().split_once("bed ")?.1.to_owned()))
        .unwrap();
    let (dir, pids) = line.split_once(' ').unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    let shell = Bystander::at(std::path::Path::new(dir));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let end = std::time::Instant::now() + DEADLINE;
    while pids.iter().any(|pid| leftover::is_alive(*pid)) || std::path::Path::new(dir).exists() {
        assert!(std::time::Instant::now() < end, "{pids:?} in {dir}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(shell.is_undisturbed());
}

#[tokio::test]
async fn servers_do_not_run_as_root() {
    let Some(user) = setup::unprivileged_user() else {
        return;
    };
    let bed = Bed::temporary().unwrap();
    let process = bed
        .spawn(Spec::new("id", "/bin/sh").args(["-c", "id -u; id -G; touch mine; exec sleep 600"]))
        .unwrap();
    let groups = format!("{}\n{}", user.uid, user.gid);
    let said = async || {
        if process.log_tail(2) == groups {
            Ok(())
        } else {
            Err(process.log_tail(2))
        }
    };
    process
        .wait_until("running as the other user", DEADLINE, said)
        .await
        .unwrap();
    let owner = bed
        .spawn(
            Spec::new("owner", "/bin/sh")
                .args(["-c", "id -u; exec sleep 600"])
                .as_owner(),
        )
        .unwrap();
    let said = async || {
        if owner.log_tail(1) == "0" {
            Ok(())
        } else {
            Err(owner.log_tail(1))
        }
    };
    owner
        .wait_until("running as root", DEADLINE, said)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_told_apart_by_its_last_words() {
    let bed = Bed::temporary().unwrap();
    let ended = async |name: &str, words: &str| {
        let process = bed
            .spawn(
                Spec::new(name, "/bin/sh")
                    .args(["-c", "echo \"$0\" >&2; exit 1", words])
                    .port(4711),
            )
            .unwrap();
        process
            .wait_until("up", DEADLINE, async || Err(String::new()))
            .await
            .unwrap_err()
    };
    let full = ended("full", "FATAL: could not write: No space left on device").await;
    assert!(
        full.is_disk_full() && full.to_string().contains("set TMPDIR"),
        "{full}"
    );
    let taken = ended("taken", "LOG: could not bind: Address already in use").await;
    assert!(
        taken.is_port_taken() && taken.to_string().starts_with("taken: port 4711 is taken"),
        "{taken}"
    );
    let other = ended("other", "whatever").await;
    assert!(matches!(other, StartError::Exited { .. }), "{other:?}");
    assert!(
        other
            .to_string()
            .starts_with("other on port 4711: ended with exit status 1"),
        "{other}"
    );
}

#[tokio::test]
async fn a_directory_closed_to_the_servers_becomes_a_link_to_an_open_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = Bed::temporary().unwrap();
    let closed = parent.dir().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let state = closed.join("state");
    for _ in 0..2 {
        let bed = Bed::at(&state).unwrap();
        let process = bed
            .spawn(Spec::new("one", "/bin/sh").args(["-c", "pwd; exec sleep 600"]))
            .unwrap();
        let said = async || {
            if process.log_tail(1).is_empty() {
                Err(String::new())
            } else {
                Ok(())
            }
        };
        process.wait_until("up", DEADLINE, said).await.unwrap();
        drop((process, bed));
        assert!(state.join("one.log").exists());
    }
    let link = std::fs::read_link(&state).unwrap_or_default();
    if setup::unprivileged_user().is_some() {
        assert!(
            link.starts_with(std::fs::canonicalize(std::env::temp_dir()).unwrap()),
            "{link:?}"
        );
        std::fs::remove_dir_all(link).unwrap();
    }
}

/// The futures of the bed can be spawned. Never called: it only has to compile.
#[expect(dead_code, reason = "a check by the compiler")]
fn every_future_can_be_moved_to_another_thread(
    process: &'static Process,
    postgres: &'static crate::postgres::Cluster,
    patroni: &'static crate::patroni::Cluster,
    redis: &'static crate::redis::Cluster,
) {
    fn movable(_: impl Send) {}
    // Borrowing from within the future is what asks most of the compiler.
    let (owned, cluster) = (std::sync::Arc::new(patroni), std::sync::Arc::new(redis));
    movable(async move {
        let _ = owned.start_node(0).await;
        let _ = cluster.nodes[0].start().await;
        let _ = cluster.wait_master_other_than(0, DEADLINE).await;
        let _ = owned.wait_healthy(DEADLINE).await;
        let redis = crate::redis::Redis::single().start().await?;
        redis.nodes[0].restart().await
    });
    movable(process.kill());
    movable(process.terminate(DEADLINE));
    movable(process.restart());
    movable(process.wait_until("up", DEADLINE, async || Ok(())));
    movable(crate::postgres::Postgres::primary().start());
    movable(postgres.promote(0));
    movable(postgres.pause_replay(0));
    movable(postgres.follow(0, 1));
    movable(postgres.wait_caught_up(0, DEADLINE));
    movable(postgres.nodes[0].restart());
    movable(postgres.nodes[0].client());
    movable(crate::patroni::Patroni::cluster(3).start());
    movable(patroni.kill_node(0));
    movable(patroni.kill_postgres(0));
    movable(patroni.start_node(0));
    movable(patroni.leader());
    movable(patroni.wait_leader_other_than(0, DEADLINE));
    movable(patroni.wait_healthy(DEADLINE));
    movable(crate::redis::Redis::sentinel(3).start());
    movable(redis.master());
    movable(redis.wait_master_other_than(0, DEADLINE));
    movable(redis.nodes[0].restart());
    movable(redis.nodes[0].command::<String>(&::redis::cmd("PING")));
}
