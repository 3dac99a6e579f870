//! Who is there, by what the looks at the store have shown. No clock, no socket, no task.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ha_core::endpoint::{Endpoint, EndpointKey};
use ha_core::phi::{Phi, Rules};

use super::wire::Row;

/// How many drained ones are remembered, in case a failover brings their announcements back.
const REMEMBERED: usize = 1024;

/// The φ from which a heartbeat is late: one in ten that is this late still comes.
const LATE: f64 = 1.0;

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
    /// In the set that was delivered last.
    delivered: bool,
    /// Since when it has been silent for too long, having been delivered until then. Who was found dead never fell.
    fell: Option<Instant>,
    /// Silent for too long, and kept because the store is suspected.
    held: bool,
}

impl Seen {
    /// Whether it fell lately: within as long as it takes to suspect it, so that those of one outage count together, at whatever moment each
    /// was to beat.
    fn fell_lately(&self, threshold: f64, now: Instant) -> bool {
        let ago = |fell| now.saturating_duration_since(fell);
        self.fell
            .is_some_and(|fell| ago(fell) <= self.phi.suspected_after(threshold))
    }
}

/// What a watcher knows.
#[derive(Debug)]
pub(super) struct Members {
    threshold: f64,
    seen: BTreeMap<EndpointKey, Seen>,
    drained: Drained,
    /// When the store was last looked at.
    looked: Option<Instant>,
    blind: bool,
    delivered: Vec<Endpoint>,
}

impl Members {
    pub(super) fn new(threshold: f64) -> Self {
        Self {
            threshold,
            seen: BTreeMap::new(),
            drained: Drained::default(),
            looked: None,
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
        let before = self.looked.replace(now).unwrap_or(now);
        if std::mem::take(&mut self.blind) {
            // They could not be heard, and could not write either. What they had been silent before stays.
            let deaf = now.saturating_duration_since(before);
            let all = self.seen.values_mut();
            all.for_each(|seen| seen.phi.excuse_for(deaf, now));
        }
        for row in rows {
            self.take(row, now);
        }
        self.deliver(now)
    }

    fn take(&mut self, row: Row, now: Instant) {
        let Some(endpoint) = row.endpoint else {
            let own = self.seen.get(&row.key);
            if own.is_some_and(|seen| seen.incarnation <= row.incarnation) {
                self.seen.remove(&row.key);
            }
            self.drained.add(row.key, row.incarnation);
            return;
        };
        if self.drained.has(&row.key, row.incarnation) {
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
            known => {
                let last = now.checked_sub(row.age).unwrap_or(now);
                let fresh = Seen {
                    incarnation: row.incarnation,
                    beat: row.beat,
                    phi: Phi::new(Rules::every(row.every), last),
                    endpoint,
                    delivered: known.is_some_and(|before| before.delivered),
                    fell: None,
                    held: false,
                };
                self.seen.insert(row.key, fresh);
            }
        }
    }

    fn deliver(&mut self, now: Instant) -> Option<Vec<Endpoint>> {
        self.suspect(now);
        let threshold = self.threshold;
        let stays = |seen: &Seen| seen.held || seen.phi.at(now) < threshold;
        let staying = self.seen.values().filter(|seen| stays(seen));
        let set: Vec<Endpoint> = staying.map(|seen| seen.endpoint.clone()).collect();
        // Who has been dead for long is forgotten; its row in the store goes as well.
        self.seen
            .retain(|_, seen| stays(seen) || seen.phi.silence(now) < Duration::from_secs(3600));
        if set.is_empty() || set == self.delivered {
            return None;
        }
        let all = self.seen.values_mut();
        all.for_each(|seen| seen.delivered = stays(seen));
        self.delivered.clone_from(&set);
        Some(set)
    }

    /// Who has fallen silent, and whether that is to be believed of them.
    ///
    /// When somebody falls, and more than half of all have fallen within the same spell or are late by now, the store is suspected: they beat at
    /// different moments, so that one outage takes them one after the other. Then all of them stay. That ends when half are in time again; the
    /// silence of the others counts for nothing, and each is given its time anew.
    fn suspect(&mut self, now: Instant) {
        let threshold = self.threshold;
        let (mut late, mut punctual) = (0, 0);
        for seen in self.seen.values_mut() {
            let phi = seen.phi.at(now);
            if phi >= threshold {
                if seen.fell.is_none() && seen.delivered {
                    seen.fell = Some(now);
                }
                continue;
            }
            (seen.fell, seen.held) = (None, false);
            if phi >= LATE.min(threshold) {
                late += 1;
            } else {
                punctual += 1;
            }
        }
        let fell = |seen: &Seen| seen.held || seen.fell_lately(threshold, now);
        let fallen = self.seen.values().filter(|seen| fell(seen)).count();
        let suspicious = fallen > 0 && fallen + late > punctual;
        for seen in self.seen.values_mut() {
            let hold = suspicious && fell(seen);
            if std::mem::replace(&mut seen.held, hold) && !hold {
                seen.phi.excuse(now);
                seen.fell = None;
            }
        }
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

/// Those who have drained, by key and incarnation, in case a failover brings their announcements back. The oldest are forgotten.
#[derive(Debug, Default)]
struct Drained {
    incarnations: BTreeMap<EndpointKey, i64>,
    order: VecDeque<EndpointKey>,
}

impl Drained {
    fn add(&mut self, key: EndpointKey, incarnation: i64) {
        if let Some(known) = self.incarnations.get_mut(&key) {
            *known = incarnation.max(*known);
            return;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.incarnations.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.incarnations.insert(key, incarnation);
    }

    fn has(&self, key: &EndpointKey, incarnation: i64) -> bool {
        let known = self.incarnations.get(key);
        known.is_some_and(|drained| incarnation <= *drained)
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
        // Those who come back show that the store works, and then the rest has its time anew.
        let back = late + 61 * BEAT;
        let mut set = None;
        for step in 0..8_i64 {
            let now = back + u32::try_from(step).unwrap() * BEAT;
            assert_eq!(set, None);
            set = members.look(vec![row("b", 1, 12 + step), row("c", 1, 12 + step)], now);
            if set.is_some() {
                assert!(step >= 3, "not before its time");
                break;
            }
        }
        assert_eq!(names(&set.unwrap()), ["b", "c"]);
    }

    /// What so many, who beat in turn, have said when so much time has passed: one beat each second, until `silent_from`.
    fn in_turn(count: u32, passed: Duration, silent_from: Duration) -> Vec<Row> {
        let until = passed.min(silent_from);
        let beats = |one: u32| {
            let phase = BEAT * one / count;
            (until.saturating_sub(phase).as_millis() / BEAT.as_millis()) as i64
        };
        let all = (0..count).map(|one| row(&format!("app-{one:02}"), 1, beats(one)));
        all.collect()
    }

    #[test]
    fn a_store_that_takes_no_writes_costs_nobody_though_they_beat_in_turn() {
        for count in [2, 3, 4, 5, 10, 50] {
            let start = Instant::now();
            let mut members = Members::new(8.0);
            let all = |members: &Members| members.delivered.len() == count as usize;
            let stop = 20 * BEAT;
            let mut naive_lost = 0;
            for look in 0..400 {
                let passed = look * (BEAT / 4);
                let now = start + passed;
                members.look(in_turn(count, passed, stop), now);
                assert!(all(&members), "{count}, after {passed:?}");
                // The control: who counts only those that are gone at this look.
                let gone = members
                    .list(now)
                    .iter()
                    .filter(|one| one.phi >= 8.0)
                    .count();
                naive_lost += usize::from(gone > 0 && gone * 2 <= count as usize);
            }
            assert!(naive_lost > 0, "{count}");
            // It takes writes again, and one of them is not there any more.
            for look in 400..480 {
                let passed = look * (BEAT / 4);
                let mut rows = in_turn(count, passed, 1000 * BEAT);
                rows[0].beat = 20;
                members.look(rows, start + passed);
            }
            assert_eq!(members.delivered.len(), count as usize - 1, "{count}");
        }
    }

    #[test]
    fn those_who_died_long_ago_do_not_keep_one_who_dies_now() {
        let start = Instant::now();
        let mut members = Members::new(8.0);
        // Killed and started again at other addresses: the rows of the old ones stay in the store for hours.
        let rows = |passed: Duration, third: Duration| {
            let mut rows = in_turn(3, passed, third);
            rows.extend(in_turn(3, passed, Duration::MAX).into_iter().map(|row| {
                let key = format!("new-{}", row.key.as_str());
                self::row(&key, 1, row.beat)
            }));
            rows
        };
        let old = 20 * BEAT;
        let mut passed = Duration::ZERO;
        while passed < 200 * BEAT {
            members.look(rows(passed, old), start + passed);
            passed += BEAT / 4;
        }
        assert_eq!(members.delivered.len(), 3);
        let beats = rows(passed, old)[3].beat;
        let died = passed;
        while passed < died + 6 * BEAT {
            let mut rows = rows(passed, old);
            rows[3].beat = beats;
            members.look(rows, start + passed);
            passed += BEAT / 4;
        }
        assert_eq!(names(&members.delivered), ["new-app-01", "new-app-02"]);
    }

    #[test]
    fn a_store_that_fails_now_and_then_does_not_keep_the_dead() {
        let start = Instant::now();
        let mut members = Members::new(8.0);
        let mut gone = None;
        for look in 0..160_u32 {
            let passed = look * (BEAT / 4);
            if look % 7 == 6 {
                members.blind();
                continue;
            }
            let mut rows = in_turn(3, passed, Duration::MAX);
            rows[1].beat = rows[1].beat.min(20);
            members.look(rows, start + passed);
            if members.delivered.len() < 3 {
                gone.get_or_insert(passed);
            }
        }
        let gone = gone.expect("it never leaves");
        assert!(gone > 23 * BEAT && gone < 27 * BEAT, "{gone:?}");
        assert_eq!(names(&members.delivered), ["app-00", "app-02"]);
    }

    #[test]
    fn of_those_who_drained_the_oldest_are_forgotten_first() {
        let mut drained = Drained::default();
        for number in 0..=REMEMBERED {
            // By name the first would come last.
            let key = EndpointKey::new(format!("app-{:05}", REMEMBERED - number));
            drained.add(key.clone(), 1);
            drained.add(key, 1);
        }
        let has = |number: usize| drained.has(&EndpointKey::new(format!("app-{number:05}")), 1);
        assert!(!has(REMEMBERED) && has(REMEMBERED - 1) && has(0));
        assert_eq!(drained.order.len(), REMEMBERED);
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
