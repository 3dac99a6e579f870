//! Whatever happens to the owner of a bed, nothing is left behind.
//!
//! The owner is this very test program, started again with a marker in its environment.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ha_testbed::{
    postgres::Postgres,
    process::{Bed, Spec},
    redis::Redis,
};

const OWNER: &str = "HA_TESTBED_TEST_OWNER";
const DEADLINE: Duration = Duration::from_secs(60);

/// What the owner does after it has printed its beds' directories: `wait` to be killed, `panic`, or `exit` without
/// running any destructor.
fn own(end: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let postgres = Postgres::primary().replicas(1).start().await.unwrap();
        let redis = Redis::single().start().await.unwrap();
        redis.nodes[0].freeze().unwrap();
        println!(
            "\nBEDS {} {}",
            postgres.dir().display(),
            redis.dir().display()
        );
        match end {
            "panic" => panic!("on purpose"),
            "exit" => std::process::exit(3),
            _ => std::future::pending::<()>().await,
        }
    });
}

/// Not a test by itself: it is what the others start.
#[test]
fn an_owner_when_asked_to_be_one() {
    if let Ok(end) = std::env::var(OWNER) {
        own(&end);
    }
}

struct Owner {
    child: Child,
    beds: Vec<PathBuf>,
}

impl Owner {
    fn start(end: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_owner_when_asked_to_be_one", "--nocapture"])
            .env(OWNER, end)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.starts_with("BEDS "))
            .unwrap();
        let beds = line.split(' ').skip(1).map(PathBuf::from).collect();
        Self { child, beds }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn leaves_nothing(mut self) {
        self.child.wait().unwrap();
        let end = Instant::now() + DEADLINE;
        loop {
            let left: Vec<_> = self.beds.iter().flat_map(|bed| inside(bed)).collect();
            let dirs: Vec<_> = self.beds.iter().filter(|bed| bed.exists()).collect();
            if left.is_empty() && dirs.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "still there: processes {left:?}, directories {dirs:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The processes that work inside a directory, found in another way than the bed's own.
fn inside(dir: &Path) -> Vec<String> {
    let find = Command::new("find")
        .args(["/proc", "-maxdepth", "2", "-name", "cwd", "-lname"])
        .arg(format!("{}/*", dir.display()))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(find.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_killed_owner_leaves_no_process_and_no_file() {
    let owner = Owner::start("wait");
    assert!(
        owner.beds.iter().all(|bed| !inside(bed).is_empty()),
        "the check itself must see the servers"
    );
    owner.signal("-KILL");
    owner.leaves_nothing();
}

#[test]
fn an_interrupted_owner_leaves_no_process_and_no_file() {
    let owner = Owner::start("wait");
    owner.signal("-INT");
    owner.leaves_nothing();
}

#[test]
fn a_panicking_owner_leaves_no_process_and_no_file() {
    Owner::start("panic").leaves_nothing();
}

#[test]
fn an_owner_that_exits_without_destructors_leaves_no_process_and_no_file() {
    Owner::start("exit").leaves_nothing();
}

#[tokio::test]
async fn dropping_a_bed_ends_everything_at_once() {
    let postgres = Postgres::primary().start().await.unwrap();
    let dir = postgres.dir().to_owned();
    assert!(!inside(&dir).is_empty());
    drop(postgres);
    assert!(inside(&dir).is_empty());
    assert!(!dir.exists());
}

#[tokio::test]
async fn the_shared_memory_of_a_killed_postgres_is_given_back() {
    let segments = || std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let postgres = Postgres::primary().start().await.unwrap();
    let pid_file =
        std::fs::read_to_string(postgres.nodes[0].data_dir().join("postmaster.pid")).unwrap();
    let id = pid_file
        .lines()
        .nth(6)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    let listed = |text: &str| {
        text.lines()
            .any(|line| line.split_whitespace().nth(1) == Some(&id))
    };
    postgres.nodes[0].kill().await.unwrap();
    assert!(listed(&segments()), "a killed server leaves its segment");
    drop(postgres);
    assert!(!listed(&segments()));
}

#[tokio::test]
async fn a_given_directory_keeps_the_logs_and_serves_again() {
    let parent = Bed::temporary().unwrap();
    let dir = parent.dir().join("state");
    for _ in 0..2 {
        let redis = Redis::single().dir(&dir).start().await.unwrap();
        assert!(
            Redis::single().dir(&dir).start().await.is_err(),
            "two beds in one directory"
        );
        drop(redis);
        assert!(dir.join("redis-0.log").exists());
    }
}

#[tokio::test]
async fn a_directory_with_somebody_s_files_is_never_emptied() {
    let parent = Bed::temporary().unwrap();
    let dir = parent.make_dir("mine").unwrap();
    std::fs::write(dir.join("thesis.tex"), "years of work").unwrap();
    let error = Redis::single().dir(&dir).start().await.unwrap_err();
    assert!(
        error.to_string().contains("holds files no test bed made"),
        "{error}"
    );
    assert!(dir.join("thesis.tex").exists());
}

#[tokio::test]
async fn helpers_that_leave_their_group_are_frozen_and_killed_too() {
    let bed = Bed::temporary().unwrap();
    let script = "setsid sh -c 'while :; do date +%N > beat; sleep 0.01; done' & wait";
    let process = bed
        .spawn(Spec::new("parent", "/bin/sh").args(["-c", script]))
        .unwrap();
    let beat = process.dir().join("beat");
    let read = || std::fs::read(&beat).unwrap_or_default();
    let beats = async |process: &ha_testbed::process::Process| {
        let before = read();
        process
            .wait_until("beating", DEADLINE, async || {
                if read() == before {
                    Err(String::new())
                } else {
                    Ok(())
                }
            })
            .await
    };
    beats(&process).await.unwrap();
    process.freeze().unwrap();
    // `date` and `sleep` are helpers as well: once all are stopped, nothing can write any more.
    let before = read();
    let states = || -> Vec<char> {
        inside(bed.dir())
            .iter()
            .filter_map(|cwd| std::fs::read_to_string(Path::new(cwd).with_file_name("stat")).ok())
            .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
            .collect()
    };
    assert!(
        states().len() >= 2 && states().iter().all(|state| *state == 'T'),
        "{:?}",
        states()
    );
    assert_eq!(read(), before);
    process.thaw().unwrap();
    beats(&process).await.unwrap();
    process.kill().await.unwrap();
    assert!(inside(bed.dir()).is_empty());
    process.restart().await.unwrap();
    beats(&process).await.unwrap();
}

#[tokio::test]
async fn a_failing_start_says_what_the_program_said() {
    let bed = Bed::temporary().unwrap();
    let script = "echo 'the moon is in the wrong phase' >&2; exit 7";
    let process = bed
        .spawn(Spec::new("moody", "/bin/sh").args(["-c", script]))
        .unwrap();
    let error = process
        .wait_until("content", DEADLINE, async || Err("no".to_owned()))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("moody: ended with exit status 7 before it was ready"),
        "{text}"
    );
    assert!(text.ends_with("the moon is in the wrong phase"), "{text}");
    let error = bed
        .spawn(Spec::new("nobody", "/nowhere/at/all"))
        .unwrap_err();
    assert_eq!(error.to_string(), "nobody: could not run the program");
}

#[tokio::test]
async fn a_deadline_names_what_was_seen_last() {
    let bed = Bed::temporary().unwrap();
    let process = bed
        .spawn(Spec::new("sleeper", "/bin/sleep").arg("600"))
        .unwrap();
    let short = Duration::from_millis(50);
    let error = process
        .wait_until("awake", short, async || Err("snoring".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    assert!(
        error
            .to_string()
            .starts_with("sleeper: not awake within 50ms; last seen: snoring"),
        "{error}"
    );
}
