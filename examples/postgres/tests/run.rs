//! The examples as they are, on servers of their own.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(240);

/// Runs it to its end and gives the lines that it printed.
async fn lines(program: &str) -> Vec<String> {
    let running = Command::new(program).kill_on_drop(true).output();
    let output = timeout(DEADLINE, running).await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    print!("{text}");
    text.lines().map(str::to_owned).collect()
}

/// The word after `words` in a line that has them.
fn after(line: &str, words: &str) -> String {
    let (_, rest) = line.split_once(words).unwrap_or_else(|| panic!("{line}"));
    let word = rest.split([' ', ',']).next();
    word.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_router_writes_on_the_successor_and_reads_while_there_is_no_primary() {
    let lines = lines(env!("CARGO_BIN_EXE_postgres-router")).await;
    let [written, read, killed, orphaned, again, last] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    let primary = after(written, "written on ");
    assert_eq!(after(killed, "killing "), primary);
    after(read, "1 note read on ");
    assert_ne!(after(orphaned, "1 note read on "), primary);
    assert!(orphaned.contains("while there is no primary"), "{orphaned}");
    assert_ne!(after(again, "written on "), primary);
    assert_ne!(after(last, "2 notes read on "), primary);
}

#[tokio::test]
async fn one_of_the_pair_works_at_a_time_and_each_turn_has_a_higher_fence() {
    let lines = lines(env!("CARGO_BIN_EXE_lease-singleton")).await;
    let steps: Vec<(String, u64)> = lines
        .iter()
        .filter(|line| line.contains(": step "))
        .map(|line| {
            let (who, _) = line.split_once(':').unwrap();
            (who.to_owned(), after(line, "under fence ").parse().unwrap())
        })
        .collect();
    let who: Vec<&str> = steps.iter().map(|(who, _)| who.as_str()).collect();
    let turns = [
        "first", "first", "first", "second", "second", "second", "first",
    ];
    assert_eq!(who, turns, "{lines:?}");
    let mut fences: Vec<u64> = steps.iter().map(|(_, fence)| *fence).collect();
    assert!(fences.is_sorted(), "{lines:?}");
    fences.dedup();
    assert_eq!(fences.len(), 3, "{lines:?}");
    let at = |text: &str| lines.iter().position(|line| line.contains(text));
    let cut = at("first: cut off").unwrap();
    let lost = at("first: no renewal of the lease was confirmed in time").unwrap();
    let taken = at("second: step 0").unwrap();
    assert!(cut < lost && lost < taken, "{lines:?}");
    assert!(at("0 steps under a fence that had been passed").is_some());
}
