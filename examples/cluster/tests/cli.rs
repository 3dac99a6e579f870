//! What the command line says to input that makes no sense: a clear message, exit status 2, and nothing left behind.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use ha_testbed::setup::{self, Tool};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ha-cluster"))
        .args(args)
        .env_remove("HA_KEYS")
        .env_remove("HA_KEYS_FILE")
        .output()
        .unwrap()
}

#[track_caller]
fn refused(args: &[&str], needles: &[&str]) -> String {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    for needle in needles {
        assert!(
            text.contains(needle),
            "{args:?} should say {needle:?}: {text}"
        );
    }
    text
}

fn dir() -> (tempfile::TempDir, String) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cluster").to_str().unwrap().to_owned();
    (temp, dir)
}

#[test]
fn unknown_flags_and_commands_are_refused() {
    refused(&["up", "--bananas"], &["--bananas"]);
    refused(&["explode"], &["explode"]);
    refused(&["kill"], &["<NAME>"]);
    refused(&["up", "--apps", "0"], &["--apps", "0"]);
    refused(
        &["up", "--without", "luck"],
        &["luck", "retry", "health", "causal", "durable"],
    );
    refused(
        &[
            "edge",
            "--without",
            "luck",
            "--upstream",
            "http://127.0.0.1:1",
        ],
        &["luck"],
    );
    refused(&[], &["Usage"]);
}

#[test]
fn an_edge_refuses_upstreams_that_are_no_urls() {
    for bad in [
        "http://",
        "http://:3000",
        "ftp://127.0.0.1:1",
        "http://127.0.0.1:notaport",
        "",
    ] {
        refused(
            &["edge", "--listen", "127.0.0.1:0", "--upstream", bad],
            &["upstream"],
        );
    }
    refused(
        &[
            "edge",
            "--listen",
            "nowhere",
            "--upstream",
            "http://127.0.0.1:1",
        ],
        &["--listen", "nowhere"],
    );
    refused(&["edge"], &["--upstream"]);
}

#[test]
fn a_taken_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let port = address.port().to_string();
    refused(
        &[
            "edge",
            "--listen",
            &address.to_string(),
            "--upstream",
            "http://127.0.0.1:1",
        ],
        &["port", &port, "taken"],
    );
    let (_temp, dir) = dir();
    refused(
        &["up", "--dir", &dir, "--port", &port],
        &["port", &port, "taken", "--port"],
    );
    assert_only_the_lock(Path::new(&dir));
}

#[test]
fn a_missing_server_is_named_with_the_command_that_installs_it() {
    let (_temp, dir) = dir();
    for command in [&["up", "--dir", &dir][..], &["drill", "--quick"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_ha-cluster"))
            .args(command)
            .env("HA_TESTBED_INSTALL", "never")
            .env(Tool::Redis.env(), "/nonexistent/redis-server")
            .output()
            .unwrap();
        let install = setup::install_command(&[Tool::Redis]);
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!("error: Redis is missing; run: {install}\n")
        );
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
    }
    assert!(!Path::new(&dir).exists());
}

#[test]
fn an_app_wants_keys_and_connection_strings() {
    let postgres = "pg-1=host=127.0.0.1 port=1 user=x";
    let redis = "redis://127.0.0.1:1";
    refused(&["app", "--redis", redis], &["--postgres"]);
    refused(&["app", "--postgres", postgres], &["--redis"]);
    refused(
        &["app", "--redis", redis, "--postgres", "host=127.0.0.1"],
        &["NAME=CONNINFO"],
    );
    refused(
        &["app", "--redis", redis, "--postgres", postgres],
        &["HA_KEYS"],
    );
    refused(
        &[
            "app",
            "--redis",
            redis,
            "--postgres",
            postgres,
            "--admin",
            "0.0.0.0:1",
        ],
        &["loopback"],
    );

    let with_key = |key: &str, redis: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_ha-cluster"))
            .args([
                "app",
                "--listen",
                "127.0.0.1:0",
                "--redis",
                redis,
                "--postgres",
                postgres,
            ])
            .env("HA_KEYS", key)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    let short = with_key("c2VjcmV0", redis);
    assert!(
        short.contains("key 1 in HA_KEYS") && short.contains("6 bytes"),
        "{short}"
    );
    assert!(!short.contains("c2VjcmV0"), "{short}");
    let key = "A".repeat(43);
    assert!(with_key(&key, "http://127.0.0.1").contains("--redis"));
}

#[test]
fn without_a_cluster_there_is_nothing_to_act_on() {
    let (_temp, dir) = dir();
    for command in [
        &["status"][..],
        &["kill", "app-1"],
        &["stop", "pg-1"],
        &["start", "pg-1"],
        &["logs", "pg-1"],
    ] {
        let mut args = command.to_vec();
        args.extend(["--dir", &dir]);
        refused(
            &args,
            &["no cluster is running in", &dir, "cargo cluster up"],
        );
    }
    assert!(!Path::new(&dir).exists(), "asking creates nothing");
    let down = run(&["down", "--dir", &dir]);
    assert!(down.status.success(), "down is content when nothing is up");
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("letter"), "dear").unwrap();
    let dir = temp.path().to_str().unwrap();
    refused(&["up", "--dir", dir], &[dir, "not empty"]);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn state_of_a_crashed_run_is_noticed_and_cleaned_up() {
    let (_temp, dir) = dir();
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(Path::new(&dir).join("lock"), "").unwrap();
    std::fs::write(Path::new(&dir).join("control.sock"), "").unwrap();
    std::fs::write(
        Path::new(&dir).join("state.json"),
        serde_json::json!({
            "supervisor": u32::MAX,
            "control": format!("{dir}/control.sock"),
            "dirs": [dir],
            "url": "http://localhost:1",
            // The id of a process that is not ours: nothing may happen to it.
            "parts": [{ "name": "app-1", "pid": std::process::id(), "address": "127.0.0.1:1", "logs": [] }],
        })
        .to_string(),
    )
    .unwrap();
    refused(
        &["status", "--dir", &dir],
        &["did not end properly", "cargo cluster down"],
    );
    let down = run(&["down", "--dir", &dir]);
    assert!(down.status.success());
    assert!(
        String::from_utf8(down.stdout)
            .unwrap()
            .contains("cleaned up")
    );
    assert_only_the_lock(Path::new(&dir));
}

#[track_caller]
fn assert_only_the_lock(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}
