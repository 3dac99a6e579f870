//! The drill keeps every promise, and fails as soon as one defence is off.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// A drill is a load on the whole machine: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The exit status, what was printed, and the result.
fn drill(args: &[&str]) -> (Option<i32>, String, Value) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let temp = tempfile::tempdir().unwrap();
    let json = temp.path().join("out.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ha-cluster"))
        .args(["drill", "--quick", "--seed", "7", "--json"])
        .arg(&json)
        .args(args)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let result = std::fs::read(&json).unwrap();
    let result = serde_json::from_slice(&result)
        .unwrap_or_else(|error| panic!("{error}\n{printed}\n{errors}"));
    (output.status.code(), printed, result)
}

#[test]
fn with_every_defence_nothing_is_lost_stale_or_doubled_and_nobody_is_logged_out() {
    let (status, printed, result) = drill(&[]);
    assert_eq!(status, Some(0), "{printed}");
    assert_eq!(
        (&result["passed"], &result["seed"]),
        (&Value::from(true), &Value::from(7))
    );
    let phases = result["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 8, "{printed}");
    for phase in phases {
        assert!(phase["requests"].as_u64().unwrap() > 50, "{phase}");
        for zero in [
            "failed_reads",
            "failed_writes",
            "acked_writes_lost",
            "duplicated_writes",
            "stale_reads",
            "logged_out",
        ] {
            assert_eq!(phase[zero], 0, "{zero}: {printed}");
        }
    }
    let killed = phases
        .iter()
        .find(|phase| phase["name"] == "postgres primary killed");
    assert!(killed.unwrap()["longest_write_pause_ms"].as_u64().unwrap() > 0);
}

/// Without this defence the drill fails in these phases, and what it counts there is not zero.
fn fails_without(defence: &str, only: &[&str], counts: &[&str]) {
    let mut args = vec!["--without", defence];
    only.iter().for_each(|fault| args.extend(["--only", fault]));
    let (status, printed, result) = drill(&args);
    assert_eq!(status, Some(1), "{printed}");
    assert_eq!(result["passed"], false);
    let phases = result["phases"].as_array().unwrap();
    assert_eq!(phases.len(), only.len(), "{printed}");
    let counted = |what: &&str| phases.iter().any(|phase| phase[*what].as_u64() > Some(0));
    assert!(counts.iter().any(counted), "{counts:?}: {printed}");
    assert!(printed.contains("FAILED"), "{printed}");
}

#[test]
fn without_retries_reads_fail_when_apps_are_killed() {
    fails_without(
        "retry",
        &["app-killed", "two-apps-killed"],
        &["failed_reads"],
    );
}

#[test]
fn without_health_checks_users_get_wrong_answers() {
    fails_without(
        "health",
        &["app-wrong"],
        &["failed_reads", "stale_reads", "logged_out"],
    );
}

#[test]
fn without_causal_tokens_reads_are_stale() {
    fails_without("causal", &["replica-killed"], &["stale_reads"]);
}

#[test]
fn without_durable_sessions_the_death_of_redis_is_felt() {
    fails_without(
        "durable",
        &["redis-master-killed"],
        &["stale_reads", "logged_out"],
    );
}
