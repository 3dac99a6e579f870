use super::*;
use std::time::Duration;

/// One step of a history; times are milliseconds.
enum Step {
    Invoke(&'static str, &'static str, u64),
    Ack(&'static str, u64),
    Refuse(&'static str),
    Unknown(&'static str),
    Read(&'static str, u64, u64, &'static [&'static str]),
}
use Step::{Ack, Invoke, Read, Refuse, Unknown};

fn judge(steps: &[Step], truth: &[&str]) -> Verdict {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut oracle = Oracle::new();
    for step in steps {
        match *step {
            Invoke(client, key, ms) => oracle.invoke(client, key, at(ms)),
            Ack(key, ms) => oracle.acknowledge(key, at(ms)),
            Refuse(key) => oracle.refuse(key),
            Unknown(key) => oracle.unknown(key),
            Read(client, from, to, keys) => {
                oracle.read(client, at(from), at(to), keys);
            }
        }
    }
    oracle.settle(truth)
}

/// (lost, stale, phantom, duplicated)
fn counts(verdict: &Verdict) -> (usize, usize, usize, usize) {
    (
        verdict.lost(),
        verdict.stale(),
        verdict.phantom(),
        verdict.duplicated(),
    )
}

#[test]
fn histories_that_keep_every_promise_are_clean() {
    let table: &[(&str, &[Step], &[&str])] = &[
        ("nothing happened", &[], &[]),
        (
            "written, read, there",
            &[Invoke("a", "x", 0), Ack("x", 1), Read("a", 2, 3, &["x"])],
            &["x"],
        ),
        (
            "a read that began before the acknowledgement may miss it",
            &[Invoke("a", "x", 0), Ack("x", 5), Read("a", 4, 6, &[])],
            &["x"],
        ),
        (
            "a read at the very instant of the acknowledgement may miss it",
            &[Invoke("a", "x", 0), Ack("x", 5), Read("a", 5, 6, &[])],
            &["x"],
        ),
        (
            "another client's write need not be seen yet",
            &[Invoke("a", "x", 0), Ack("x", 1), Read("b", 9, 10, &[])],
            &["x"],
        ),
        (
            "an unknown write may be there",
            &[Invoke("a", "x", 0), Unknown("x")],
            &["x"],
        ),
        (
            "an unknown write may be absent",
            &[Invoke("a", "x", 0), Unknown("x")],
            &[],
        ),
        (
            "an open write counts as unknown",
            &[Invoke("a", "x", 0)],
            &["x"],
        ),
        (
            "a refused write is not there",
            &[Invoke("a", "x", 0), Refuse("x")],
            &[],
        ),
        (
            "a write in flight may be seen by others before its answer",
            &[Invoke("a", "x", 0), Read("b", 1, 2, &["x"]), Ack("x", 9)],
            &["x"],
        ),
        (
            "two reads under way at once need not agree",
            &[
                Invoke("a", "x", 0),
                Read("b", 1, 5, &["x"]),
                Read("b", 2, 6, &[]),
                Ack("x", 9),
            ],
            &["x"],
        ),
        (
            "unknown at first, acknowledged by a later try",
            &[
                Invoke("a", "x", 0),
                Unknown("x"),
                Ack("x", 9),
                Read("a", 10, 11, &["x"]),
            ],
            &["x"],
        ),
    ];
    for (name, steps, truth) in table {
        let verdict = judge(steps, truth);
        assert!(verdict.is_clean(), "{name}: {:?}", verdict.violations);
    }
}

#[test]
fn histories_that_break_a_promise_are_named() {
    type Row = (
        &'static str,
        &'static [Step],
        &'static [&'static str],
        (usize, usize, usize, usize),
    );
    let table: &[Row] = &[
        (
            "an acknowledged write is gone",
            &[Invoke("a", "x", 0), Ack("x", 1)],
            &[],
            (1, 0, 0, 0),
        ),
        (
            "own write missed",
            &[Invoke("a", "x", 0), Ack("x", 1), Read("a", 2, 3, &[])],
            &["x"],
            (0, 1, 0, 0),
        ),
        (
            "missed twice is two stale reads",
            &[
                Invoke("a", "x", 0),
                Ack("x", 1),
                Read("a", 2, 3, &[]),
                Read("a", 4, 5, &[]),
            ],
            &["x"],
            (0, 2, 0, 0),
        ),
        (
            "two own writes missed is one stale read",
            &[
                Invoke("a", "x", 0),
                Ack("x", 1),
                Invoke("a", "y", 1),
                Ack("y", 2),
                Read("a", 3, 4, &[]),
            ],
            &["x", "y"],
            (0, 1, 0, 0),
        ),
        (
            "a later read goes back in time",
            &[
                Invoke("a", "x", 0),
                Ack("x", 1),
                Read("b", 2, 3, &["x"]),
                Read("b", 4, 5, &[]),
            ],
            &["x"],
            (0, 1, 0, 0),
        ),
        (
            "nobody wrote it, seen in a read",
            &[Read("a", 0, 1, &["ghost"])],
            &[],
            (0, 0, 1, 0),
        ),
        (
            "nobody wrote it, found at the end",
            &[],
            &["ghost"],
            (0, 0, 1, 0),
        ),
        (
            "a ghost in two reads is one phantom",
            &[Read("a", 0, 1, &["ghost"]), Read("a", 2, 3, &["ghost"])],
            &["ghost"],
            (0, 0, 1, 0),
        ),
        (
            "read before it was written",
            &[Invoke("a", "x", 5), Read("b", 0, 1, &["x"]), Ack("x", 6)],
            &["x"],
            (0, 0, 1, 0),
        ),
        (
            "refused, seen, and gone",
            &[Invoke("a", "x", 0), Refuse("x"), Read("b", 1, 2, &["x"])],
            &[],
            (0, 0, 1, 0),
        ),
        (
            "refused and there",
            &[Invoke("a", "x", 0), Refuse("x")],
            &["x"],
            (0, 0, 1, 0),
        ),
        (
            "read, never acknowledged, gone",
            &[Invoke("a", "x", 0), Unknown("x"), Read("b", 1, 2, &["x"])],
            &[],
            (0, 0, 1, 0),
        ),
        (
            "twice in a read",
            &[
                Invoke("a", "x", 0),
                Ack("x", 1),
                Read("a", 2, 3, &["x", "x"]),
            ],
            &["x"],
            (0, 0, 0, 1),
        ),
        (
            "twice at the end",
            &[Invoke("a", "x", 0), Ack("x", 1)],
            &["x", "x"],
            (0, 0, 0, 1),
        ),
        (
            "an unknown write applied twice",
            &[Invoke("a", "x", 0), Unknown("x")],
            &["x", "x"],
            (0, 0, 0, 1),
        ),
        (
            "twice in a read and at the end is one key",
            &[
                Invoke("a", "x", 0),
                Ack("x", 1),
                Read("a", 2, 3, &["x", "x"]),
            ],
            &["x", "x"],
            (0, 0, 0, 1),
        ),
        (
            "lost, and stale on the way",
            &[Invoke("a", "x", 0), Ack("x", 1), Read("a", 2, 3, &[])],
            &[],
            (1, 1, 0, 0),
        ),
    ];
    for (name, steps, truth, expected) in table {
        let verdict = judge(steps, truth);
        assert_eq!(
            counts(&verdict),
            *expected,
            "{name}: {:?}",
            verdict.violations
        );
    }
}

#[test]
fn a_stale_read_says_which_of_its_two_promises_broke() {
    let verdict = judge(
        &[
            Invoke("a", "own", 0),
            Ack("own", 1),
            Invoke("b", "other", 0),
            Ack("other", 1),
            Read("a", 2, 3, &["own", "other"]),
            Read("a", 4, 5, &[]),
        ],
        &["own", "other"],
    );
    let [
        Violation::Stale {
            client,
            own_writes,
            gone_back,
        },
    ] = &verdict.violations[..]
    else {
        panic!("{:?}", verdict.violations)
    };
    assert_eq!(
        (client.as_str(), &own_writes[..], &gone_back[..]),
        ("a", &["own".to_owned()][..], &["other".to_owned()][..])
    );
}

#[test]
fn unknown_writes_are_told_apart_by_what_became_of_them() {
    let verdict = judge(
        &[
            Invoke("a", "x", 0),
            Invoke("a", "y", 0),
            Invoke("a", "z", 0),
            Ack("z", 1),
        ],
        &["x", "z"],
    );
    assert_eq!(
        (
            verdict.unknown_applied,
            verdict.unknown_absent,
            verdict.acknowledged
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_violation_reads_as_a_sentence() {
    let verdict = judge(&[Invoke("ann", "x", 0), Ack("x", 1)], &[]);
    assert_eq!(
        verdict.violations[0].to_string(),
        "lost: `x` was acknowledged to ann and is gone"
    );
}

#[test]
#[should_panic(expected = "key `x` was invoked twice")]
fn a_key_used_for_two_writes_is_refused() {
    judge(&[Invoke("a", "x", 0), Invoke("b", "x", 1)], &[]);
}
