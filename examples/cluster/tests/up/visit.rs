//! One visit: what a user meets while parts are killed and frozen.

use std::net::SocketAddr;

use ha_cluster::status::{RunState, Status};
use rustix::process::Signal;

use crate::browser::Browser;
use crate::end::Footprint;
use crate::supervisor::{Up, done, refused, status};

/// The key of ada's first note.
const KEY: [(&str, &str); 1] = [("idempotency-key", "the-first")];

/// A running cluster, and ada, who is signed in.
struct Visit {
    dir: String,
    first: SocketAddr,
    second: SocketAddr,
    /// The name of PostgreSQL's primary.
    primary: String,
    ada: Browser,
}

#[test]
fn up_serves_through_both_edges_survives_a_kill_and_leaves_nothing_after_ctrl_c() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cluster").to_str().unwrap().to_owned();
    let mut up = Up::start(&dir, &[]);
    up.says("Ctrl-C here");

    let mut visit = Visit::begin(&dir);
    visit.commands_that_make_no_sense_are_refused();
    visit.what_one_edge_took_is_read_through_the_other();
    visit.somebody_else_with_the_same_key_gets_an_answer_of_their_own();
    visit.requests_that_make_no_sense_are_refused();
    visit.the_primary_dies_and_nothing_is_lost();
    visit.a_frozen_part_is_seen_as_such_and_goes_on();
    let logs = done(&dir, &["logs", "app-1", "-n", "5"]);
    assert!(!logs.stdout.is_empty());

    let running = Footprint::of(&up);
    up.signal(Signal::INT);
    assert!(up.wait().success());
    running.assert_gone();
}

impl Visit {
    fn begin(dir: &str) -> Self {
        let status = status(dir);
        let mut parts = status.parts.iter();
        assert!(
            parts.all(|part| part.state == RunState::Running),
            "{status}"
        );
        for (role, count) in [("primary", 1), ("sync", 1), ("master", 1), ("3/3 apps", 2)] {
            assert_eq!(with_role(&status, role).len(), count, "{role}: {status}");
        }
        let [first, second] = status.edges[..] else {
            panic!("{status}");
        };
        let mut ada = Browser::default();
        assert_eq!(ada.send(first, "GET", "/notes", "", &[]).status, 401);
        let signed_in = ada.expect(200, first, "POST", "/sign-in", "user=ada", &[]);
        assert_eq!(signed_in.header("x-ha-edge"), Some("edge-1"));
        Self {
            dir: dir.to_owned(),
            first,
            second,
            primary: with_role(&status, "primary")[0].to_owned(),
            ada,
        }
    }

    fn commands_that_make_no_sense_are_refused(&self) {
        let dir = &self.dir;
        refused(dir, &["up"], "already running");
        refused(dir, &["up"], "sentinel-3");
        refused(dir, &["kill", "app-9"], "app-1, app-2, app-3, pg-1");
        refused(dir, &["logs", "app-9"], "app-1, app-2, app-3, pg-1");
        refused(dir, &["start", "app-1"], "running already");
    }

    fn what_one_edge_took_is_read_through_the_other(&mut self) {
        let (first, second, ada) = (self.first, self.second, &mut self.ada);
        let added = ada.expect(201, second, "POST", "/notes", "text=hello", &KEY);
        assert_eq!(added.header("x-ha-edge"), Some("edge-2"));
        assert!(added.header("x-ha-app").unwrap().starts_with("app-"));
        assert_eq!(added.header("x-ha-db-node"), Some(self.primary.as_str()));
        let replayed = ada.expect(201, first, "POST", "/notes", "text=hello", &KEY);
        assert_eq!(replayed.body, added.body);
        let notes = ada.expect(200, first, "GET", "/notes", "", &[]);
        assert_eq!(notes.body.matches("hello").count(), 1, "{}", notes.body);
        let me = ada.expect(200, second, "GET", "/whoami", "", &[]);
        assert!(me.body.contains("\"user\":\"ada\""), "{}", me.body);
    }

    fn somebody_else_with_the_same_key_gets_an_answer_of_their_own(&mut self) {
        let mine = (self.ada).expect(201, self.first, "POST", "/notes", "text=hello", &KEY);
        let mut eve = Browser::default();
        eve.expect(200, self.first, "POST", "/sign-in", "user=eve", &[]);
        let other = eve.expect(201, self.first, "POST", "/notes", "text=hello", &KEY);
        assert_ne!(other.body, mine.body);
    }

    fn requests_that_make_no_sense_are_refused(&mut self) {
        let long = format!("text={}", "x".repeat(100_000));
        for (status, method, path, form, headers) in [
            (404, "GET", "/nowhere", "", &[][..]),
            (400, "POST", "/notes", "text=", &[]),
            (413, "POST", "/notes", &long, &[]),
            (422, "POST", "/notes", "text=other", &KEY),
        ] {
            let answer = self.ada.send(self.first, method, path, form, headers);
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        }
        // A session that is none, and a token that nobody signed: one is signed out, the other reads without it.
        for (cookie, value, path, status) in [
            ("id", "garbage", "/whoami", 401),
            ("ha-causal", "awEvxxxx", "/notes", 200),
        ] {
            let mut forger = self.ada.clone();
            forger.cookies.insert(cookie.to_owned(), value.to_owned());
            let answer = forger.send(self.first, "GET", path, "", &[]);
            assert_eq!(answer.status, status, "{cookie}: {}", answer.body);
        }
    }

    fn the_primary_dies_and_nothing_is_lost(&mut self) {
        let (first, second, ada) = (self.first, self.second, &mut self.ada);
        done(&self.dir, &["kill", &self.primary]);
        let read = ada.send(first, "GET", "/notes", "", &[]);
        let found = read.body.matches("hello").count();
        assert_eq!((read.status, found), (200, 1), "{}", read.body);
        let key = [("idempotency-key", "the-second")];
        ada.expect(201, second, "POST", "/notes", "text=after", &key);
        let notes = ada.expect(200, first, "GET", "/notes", "", &[]);
        assert_eq!(notes.body.matches("after").count(), 1, "{}", notes.body);
        self.assert_state(&self.primary, RunState::Dead);
        refused(&self.dir, &["kill", &self.primary], "dead already");
    }

    fn a_frozen_part_is_seen_as_such_and_goes_on(&self) {
        done(&self.dir, &["stop", "app-2"]);
        self.assert_state("app-2", RunState::Frozen);
        done(&self.dir, &["start", "app-2"]);
        self.assert_state("app-2", RunState::Running);
    }

    #[track_caller]
    fn assert_state(&self, part: &str, state: RunState) {
        assert_eq!(status(&self.dir).part(part).unwrap().state, state, "{part}");
    }
}

fn with_role<'a>(status: &'a Status, role: &str) -> Vec<&'a str> {
    let parts = status.parts.iter();
    parts
        .filter(|part| part.role.as_deref() == Some(role))
        .map(|part| part.name.as_str())
        .collect()
}
