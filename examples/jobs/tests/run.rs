//! The example as it is, on servers of its own.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(180);

/// The number behind these words.
fn number(text: &str, words: &str) -> u64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("{text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test]
async fn a_worker_that_carries_tokens_misses_no_order_and_reads_on_replicas() {
    let running = Command::new(env!("CARGO_BIN_EXE_jobs"))
        .kill_on_drop(true)
        .output();
    let output = timeout(DEADLINE, running).await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    print!("{text}");
    assert_eq!(number(&text, "missed with the token: "), 0, "{text}");
    let (orders, replicas) = (number(&text, ""), number(&text, "jobs: "));
    assert!(replicas * 2 > orders, "most are read on replicas: {text}");
    number(&text, "without it: ");
}
