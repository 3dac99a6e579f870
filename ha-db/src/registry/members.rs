//! Who is there, by what the looks at the store have shown. No clock, no socket, no task.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ha_core::endpoint::{Endpoint, EndpointKey};
use ha_core::phi::{Phi, Rules};

use super::wire::Row;

/// How many drained ones are remembered, in case a failover brings their announcements back.
const REMEMBERED: usize = 1024;

/// One that has announced itself, as a watcher sees it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Member {
    /// What was announced.
    pub endpoint: Endpoint,
    /// How sure we are that it is dead; see [`ha_core::phi`].
    pub phi: f64,
    /// How long it has been silent.
    pub silence: Duration,
    /// The silence after which it is left out.
    pub suspected_after: Duration,
}

#[derive(Debug)]
struct Seen {
    incarnation: i64,
    beat: i64,
    phi: Phi,
    endpoint: Endpoint,
}

/// What a watcher knows.
#[derive(Debug)]
pub(super) struct Members {
    threshold: f64,
    seen: BTreeMap<EndpointKey, Seen>,
    drained: BTreeMap<EndpointKey, i64>,
    blind: bool,
    delivered: Vec<Endpoint>,
}

impl Members {
    pub(super) fn new(threshold: f64) -> Self {
        Self {
            threshold,
            seen: BTreeMap::new(),
            drained: BTreeMap::new(),
            blind: false,
            delivered: Vec::new(),
        }
    }

    /// The store could not be looked at: nothing is learnt until it can.
    pub(super) fn blind(&mut self) {
        self.blind = true;
    }

    /// Takes in a look, and returns the set when it is another than before.
    pub(super) fn look(&mut self, rows: Vec<Row>, now: Instant) -> Option<Vec<Endpoint>> {
        if std::mem::take(&mut self.blind) {
            // They could not be heard, and could not write either.
            self.seen.values_mut().for_each(|seen| seen.phi.excuse(now));
        }
        for row in rows {
            self.take(row, now);
        }
        self.deliver(now)
    }

    fn take(&mut self, row: Row, now: Instant) {
        let Some(endpoint) = row.endpoint else {
            if self.drained.len() >= REMEMBERED {
                self.drained.pop_first();
            }
            self.drained.insert(row.key.clone(), row.incarnation);
            if self
                .seen
                .get(&row.key)
                .is_some_and(|seen| seen.incarnation <= row.incarnation)
            {
                self.seen.remove(&row.key);
            }
            return;
        };
        if self
            .drained
            .get(&row.key)
            .is_some_and(|drained| row.incarnation <= *drained)
        {
            return;
        }
        match self.seen.get_mut(&row.key) {
            Some(seen) if seen.incarnation == row.incarnation && seen.beat == row.beat => {}
            // What a failover has brought back is older than what was seen.
            Some(seen) if (row.incarnation, row.beat) < (seen.incarnation, seen.beat) => {}
            Some(seen) if seen.incarnation == row.incarnation => {
                // Silence that was long enough to be suspected was an outage; learnt as an interval it would hide the next one.
                if seen.phi.at(now) >= self.threshold {
                    seen.phi.excuse(now);
                } else {
                    seen.phi.heartbeat(now);
                }
                seen.beat = row.beat;
                seen.endpoint = endpoint;
            }
            _ => {
                let last = now.checked_sub(row.age).unwrap_or(now);
                let fresh = Seen {
                    incarnation: row.incarnation,
                    beat: row.beat,
                    phi: Phi::new(Rules::every(row.every), last),
                    endpoint,
                };
                self.seen.insert(row.key, fresh);
            }
        }
    }

    fn deliver(&mut self, now: Instant) -> Option<Vec<Endpoint>> {
        let silent = |seen: &Seen| seen.phi.at(now) >= self.threshold;
        let quiet = self.seen.values().filter(|seen| silent(seen)).count();
        let was_in = |key: &EndpointKey| self.delivered.iter().any(|known| known.key == *key);
        // Found dead, not fallen silent: nothing is suspected of the store because of those.
        let fell = self
            .seen
            .iter()
            .filter(|(key, seen)| silent(seen) && was_in(key))
            .count();
        let suspicious = fell > 0 && quiet * 2 > self.seen.len();
        let set: Vec<Endpoint> = self
            .seen
            .iter()
            .filter(|(key, seen)| !silent(seen) || (suspicious && was_in(key)))
            .map(|(_, seen)| seen.endpoint.clone())
            .collect();
        // Who has been dead for long is forgotten; its row in the store goes as well.
        let threshold = self.threshold;
        self.seen.retain(|_, seen| {
            seen.phi.at(now) < threshold || seen.phi.silence(now) < Duration::from_secs(3600)
        });
        if set.is_empty() || set == self.delivered {
            return None;
        }
        self.delivered.clone_from(&set);
        Some(set)
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Member> {
        let member = |seen: &Seen| Member {
            endpoint: seen.endpoint.clone(),
            phi: seen.phi.at(now),
            silence: seen.phi.silence(now),
            suspected_after: seen.phi.suspected_after(self.threshold),
        };
        self.seen.values().map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    fn row(name: &str, incarnation: i64, beat: i64) -> Row {
        Row {
            key: name.into(),
            incarnation,
            beat,
            every: BEAT,
            age: Duration::ZERO,
            endpoint: Some(
                format!("http://{name}")
                    .parse::<Endpoint>()
                    .unwrap()
                    .with_key(name),
            ),
        }
    }

    fn drained(name: &str, incarnation: i64) -> Row {
        Row {
            endpoint: None,
            ..row(name, incarnation, 0)
        }
    }

    fn names(set: &[Endpoint]) -> Vec<&str> {
        set.iter().map(|endpoint| endpoint.key.as_str()).collect()
    }

    /// Three that beat together for ten seconds.
    fn three() -> (Members, Instant) {
        let start = Instant::now();
        let mut members = Members::new(8.0);
        let rows = |beat| vec![row("a", 1, beat), row("b", 1, beat), row("c", 1, beat)];
        assert_eq!(
            names(&members.look(rows(0), start).unwrap()),
            ["a", "b", "c"]
        );
        for beat in 1..=10_u32 {
            let now = start + beat * BEAT;
            assert_eq!(
                members.look(rows(i64::from(beat)), now),
                None,
                "only changes"
            );
        }
        (members, start + 10 * BEAT)
    }

    #[test]
    fn who_falls_silent_leaves_when_phi_says_so_and_comes_back_with_a_heartbeat() {
        let (mut members, last) = three();
        let after = members.list(last)[0].suspected_after;
        let others = |beat| vec![row("a", 1, 10), row("b", 1, beat), row("c", 1, beat)];
        for (beat, at) in [(11, after / 2), (12, after - BEAT / 10)] {
            assert_eq!(members.look(others(beat), last + at), None, "not yet");
        }
        let set = members.look(others(13), last + after).unwrap();
        assert_eq!(names(&set), ["b", "c"]);
        let back = vec![row("a", 1, 11), row("b", 1, 14), row("c", 1, 14)];
        let set = members.look(back, last + after + BEAT).unwrap();
        assert_eq!(names(&set), ["a", "b", "c"]);
    }

    #[test]
    fn who_drains_leaves_at_once_and_a_failover_does_not_bring_it_back() {
        let (mut members, last) = three();
        let set = members.look(vec![drained("a", 1)], last).unwrap();
        assert_eq!(names(&set), ["b", "c"]);
        assert_eq!(members.look(vec![row("a", 1, 10)], last), None);
        // A successor under the same key is another one.
        let set = members.look(vec![row("a", 2, 1)], last).unwrap();
        assert_eq!(names(&set), ["a", "b", "c"]);
        // And the late drain of its predecessor is not its own.
        assert_eq!(members.look(vec![drained("a", 1)], last), None);
    }

    #[test]
    fn a_store_that_is_away_or_was_cut_back_changes_nothing() {
        let (mut members, last) = three();
        members.blind();
        let now = last + 100 * BEAT;
        assert_eq!(
            members.look(Vec::new(), now),
            None,
            "a row that is gone is no drain"
        );
        let older = vec![row("a", 1, 7), row("b", 1, 7), row("c", 1, 7)];
        assert_eq!(members.look(older, now + BEAT), None);
        let newer = vec![row("a", 1, 11), row("b", 1, 11)];
        assert_eq!(members.look(newer, now + BEAT), None);
        let beat = |beat| vec![row("a", 1, beat), row("b", 1, beat)];
        let mut set = None;
        for step in 2..8_u32 {
            set = set.or(members.look(beat(10 + i64::from(step)), now + step * BEAT));
        }
        assert_eq!(names(&set.unwrap()), ["a", "b"], "c never came back");
    }

    #[test]
    fn when_most_fall_silent_at_once_the_store_is_suspected_and_not_they() {
        let (mut members, last) = three();
        let late = last + 60 * BEAT;
        assert_eq!(members.look(vec![row("c", 1, 11)], late), None);
        assert_eq!(
            members.look(Vec::new(), late + 60 * BEAT),
            None,
            "not even the last"
        );
        // The control: without the rule nobody would be left.
        assert!(
            members
                .list(late + 60 * BEAT)
                .iter()
                .all(|member| member.phi >= 8.0)
        );
        // Those who come back show that the store works, and then the rest is out.
        let two = vec![row("b", 1, 12), row("c", 1, 12)];
        let set = members.look(two, late + 61 * BEAT).unwrap();
        assert_eq!(names(&set), ["b", "c"]);
    }

    #[test]
    fn who_is_found_dead_is_not_taken_in() {
        let mut members = Members::new(8.0);
        let mut dead = row("a", 1, 1);
        dead.age = 10 * BEAT;
        let now = Instant::now() + 60 * BEAT;
        let set = members.look(vec![dead, row("b", 1, 1)], now).unwrap();
        assert_eq!(names(&set), ["b"]);
    }
}
