//! Everything that happened to users, by phase.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ha_testbed::load::Histogram;
use ha_testbed::oracle::{Oracle, Verdict, Violation};

/// An answer that took longer than this disturbed its user, even if it was right.
const SLOW: Duration = Duration::from_secs(1);
/// Examples kept of each kind of trouble in a phase; the rest is only counted.
const EXAMPLES: usize = 4;

/// What went wrong with one operation, as its user saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// A read that no address answered rightly.
    FailedRead,
    /// A write that was tried again and again under its key and had no success in time.
    FailedWrite,
    /// A read that missed what its user had been promised.
    Stale,
    /// The user was asked to sign in again, or taken for somebody else.
    LoggedOut,
    /// A write without a key whose outcome is unknown: allowed, and counted.
    Unknown,
    /// A read that showed what has no right to exist.
    Phantom,
}

impl Trouble {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FailedRead => "failed reads",
            Self::FailedWrite => "failed writes",
            Self::Stale => "stale reads",
            Self::LoggedOut => "users logged out",
            Self::Unknown => "unkeyed writes unknown",
            Self::Phantom => "phantoms",
        }
    }
}

/// One operation of one user, from the first attempt to the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) user: usize,
    pub(crate) phase: usize,
    pub(crate) start: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    phase: usize,
    ended: Instant,
    took: Duration,
}

/// What a phase counted. Losses and duplicates come with the verdict.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) name: &'static str,
    pub(crate) start: Instant,
    pub(crate) end: Option<Instant>,
    pub(crate) fault: Option<Instant>,
    pub(crate) healed: Option<Instant>,
    /// When what was broken was started again.
    pub(crate) restored: Option<Instant>,
    pub(crate) requests: u64,
    pub(crate) retried: u64,
    pub(crate) acknowledged: u64,
    pub(crate) troubles: HashMap<Trouble, u64>,
    pub(crate) examples: Vec<(Trouble, String)>,
    /// What went wrong with the phase itself: not healed, not whole again.
    pub(crate) faults: Vec<String>,
    pub(crate) longest_pause: Duration,
    last_acknowledged: Instant,
}

impl Tally {
    fn new(name: &'static str, start: Instant) -> Self {
        Self {
            name,
            start,
            end: None,
            fault: None,
            healed: None,
            restored: None,
            requests: 0,
            retried: 0,
            acknowledged: 0,
            troubles: HashMap::new(),
            examples: Vec::new(),
            faults: Vec::new(),
            longest_pause: Duration::ZERO,
            last_acknowledged: start,
        }
    }

    pub(crate) fn count(&self, trouble: Trouble) -> u64 {
        self.troubles.get(&trouble).copied().unwrap_or(0)
    }

    fn pause_until(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.last_acknowledged);
        self.longest_pause = self.longest_pause.max(pause);
        self.last_acknowledged = now;
    }
}

#[derive(Debug, Default)]
struct Inner {
    phases: Vec<Tally>,
    samples: Vec<Sample>,
    oracle: Oracle,
    /// In which phase each write began.
    phase_of: HashMap<String, usize>,
    /// The operation each user has under way.
    under_way: HashMap<usize, Instant>,
    last_disturbed: Option<Instant>,
    /// When each app was last seen to answer.
    served: HashMap<String, Instant>,
}

/// The book of the drill, shared by its users.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Inner>);

/// What an operation came to, for the book.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// How often it was sent again.
    pub(crate) retried: u64,
    /// Whether it was a write that was acknowledged.
    pub(crate) acknowledged: bool,
    pub(crate) troubles: Vec<(Trouble, String)>,
}

impl Entry {
    pub(crate) fn trouble(&mut self, trouble: Trouble, example: impl Into<String>) {
        self.troubles.push((trouble, example.into()));
    }
}

impl Ledger {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a phase; operations belong to the phase they begin in.
    pub(crate) fn begin_phase(&self, name: &'static str, now: Instant) {
        let mut inner = self.inner();
        if let Some(before) = inner.phases.last_mut() {
            before.pause_until(now);
            before.end = Some(now);
        }
        inner.phases.push(Tally::new(name, now));
    }

    /// Ends the last phase.
    pub(crate) fn end(&self, now: Instant) {
        if let Some(last) = self.inner().phases.last_mut() {
            last.pause_until(now);
            last.end = Some(now);
        }
    }

    /// Changes the book of the current phase.
    pub(crate) fn current(&self, change: impl FnOnce(&mut Tally)) {
        if let Some(current) = self.inner().phases.last_mut() {
            change(current);
        }
    }

    /// An operation begins.
    ///
    /// # Panics
    /// Before the first phase.
    pub(crate) fn begin(&self, user: usize, now: Instant) -> Op {
        let mut inner = self.inner();
        inner.under_way.insert(user, now);
        let phase = inner
            .phases
            .len()
            .checked_sub(1)
            .expect("users start after the first phase");
        Op {
            user,
            phase,
            start: now,
        }
    }

    /// It ends.
    pub(crate) fn finish(&self, op: Op, entry: Entry, now: Instant) {
        let mut inner = self.inner();
        inner.under_way.remove(&op.user);
        let took = now.saturating_duration_since(op.start);
        if took > SLOW || entry.retried > 0 || !entry.troubles.is_empty() {
            inner.last_disturbed = Some(now);
        }
        inner.samples.push(Sample {
            phase: op.phase,
            ended: now,
            took,
        });
        if entry.acknowledged {
            // The pause belongs to the time it was seen in, whenever the write began.
            if let Some(current) = inner.phases.last_mut() {
                current.pause_until(now);
            }
        }
        let tally = &mut inner.phases[op.phase];
        tally.requests += 1;
        tally.retried += entry.retried;
        tally.acknowledged += u64::from(entry.acknowledged);
        for (trouble, example) in entry.troubles {
            let count = tally.troubles.entry(trouble).or_default();
            *count += 1;
            if *count <= EXAMPLES as u64 {
                let at = now.saturating_duration_since(tally.start).as_secs_f32();
                tally
                    .examples
                    .push((trouble, format!("{at:.1} s: {example}")));
            }
        }
    }

    /// When a user was last disturbed, now if one waits for too long already.
    pub(crate) fn last_disturbed(&self, now: Instant) -> Option<Instant> {
        let inner = self.inner();
        let stuck = inner
            .under_way
            .values()
            .any(|start| now.duration_since(*start) > SLOW);
        if stuck {
            Some(now)
        } else {
            inner.last_disturbed
        }
    }

    /// An app answered.
    pub(crate) fn served(&self, app: &str, now: Instant) {
        let mut inner = self.inner();
        match inner.served.get_mut(app) {
            Some(last) => *last = now,
            None => {
                inner.served.insert(app.to_owned(), now);
            }
        }
    }

    /// When an app last answered a user.
    pub(crate) fn last_served_by(&self, app: &str) -> Option<Instant> {
        self.inner().served.get(app).copied()
    }

    pub(crate) fn invoke(&self, op: Op, account: &str, key: &str) {
        let mut inner = self.inner();
        inner.phase_of.insert(key.to_owned(), op.phase);
        inner.oracle.invoke(account, key, op.start);
    }

    pub(crate) fn acknowledge(&self, key: &str, now: Instant) {
        self.inner().oracle.acknowledge(key, now);
    }

    pub(crate) fn refuse(&self, key: &str) {
        self.inner().oracle.refuse(key);
    }

    /// A user listed the notes; what that proves wrong.
    pub(crate) fn listed(
        &self,
        account: &str,
        op: Op,
        now: Instant,
        keys: &[String],
    ) -> Vec<Violation> {
        self.inner().oracle.read(account, op.start, now, keys)
    }

    /// What the primary holds at the end: the book is closed.
    pub(crate) fn settle(&self, truth: Vec<String>) -> Closed {
        let mut inner = self.inner();
        let inner = std::mem::take(&mut *inner);
        let verdict = inner.oracle.settle(truth);
        Closed {
            phases: inner.phases,
            samples: inner.samples,
            phase_of: inner.phase_of,
            verdict,
        }
    }
}

/// The book after the last entry.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) phases: Vec<Tally>,
    samples: Vec<Sample>,
    phase_of: HashMap<String, usize>,
    pub(crate) verdict: Verdict,
}

impl Closed {
    /// In which phase the write of `key` began.
    pub(crate) fn phase_of(&self, key: &str) -> Option<usize> {
        self.phase_of.get(key).copied()
    }

    /// The latencies of a phase's operations that ended in `from..to`.
    pub(crate) fn latency(&self, phase: usize, from: Instant, to: Instant) -> Histogram {
        let mut latency = Histogram::new();
        for sample in &self.samples {
            if sample.phase == phase && from <= sample.ended && sample.ended < to {
                latency.record(sample.took);
            }
        }
        latency
    }

    /// The latencies of all of a phase's operations.
    pub(crate) fn all_latencies(&self, phase: usize) -> Histogram {
        let mut latency = Histogram::new();
        for sample in self.samples.iter().filter(|sample| sample.phase == phase) {
            latency.record(sample.took);
        }
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_operation_belongs_to_the_phase_it_began_in() {
        let (ledger, t) = (Ledger::default(), Instant::now());
        ledger.begin_phase("one", t);
        let op = ledger.begin(0, t);
        ledger.begin_phase("two", t + ms(10));
        let mut entry = Entry {
            retried: 2,
            ..Entry::default()
        };
        entry.trouble(Trouble::FailedRead, "gone");
        ledger.finish(op, entry, t + ms(20));
        let closed = ledger.settle(vec![]);
        assert_eq!(
            (closed.phases[0].requests, closed.phases[0].retried),
            (1, 2)
        );
        assert_eq!(closed.phases[0].count(Trouble::FailedRead), 1);
        assert_eq!(
            (
                closed.phases[1].requests,
                closed.phases[1].count(Trouble::FailedRead)
            ),
            (0, 0)
        );
    }

    #[test]
    fn the_longest_pause_counts_the_silence_at_both_ends_of_a_phase() {
        let (ledger, t) = (Ledger::default(), Instant::now());
        let write = |at: u64| {
            let op = ledger.begin(0, t + ms(at));
            ledger.finish(
                op,
                Entry {
                    acknowledged: true,
                    ..Entry::default()
                },
                t + ms(at),
            );
        };
        ledger.begin_phase("silent at the start", t);
        write(300);
        ledger.begin_phase("silent in the middle", t + ms(400));
        write(410);
        write(660);
        write(700);
        ledger.begin_phase("silent at the end", t + ms(700));
        write(710);
        ledger.end(t + ms(1_000));
        let pauses: Vec<_> = ledger
            .settle(vec![])
            .phases
            .iter()
            .map(|phase| phase.longest_pause)
            .collect();
        assert_eq!(pauses, [ms(300), ms(250), ms(290)]);
    }

    #[test]
    fn slow_retried_and_troubled_operations_disturb_and_others_do_not() {
        let t = Instant::now();
        let troubled = || {
            let mut entry = Entry::default();
            entry.trouble(Trouble::Unknown, "");
            entry
        };
        let retried = || Entry {
            retried: 1,
            ..Entry::default()
        };
        for (entry, took, disturbs) in [
            (Entry::default(), ms(999), false),
            (Entry::default(), ms(1_001), true),
            (retried(), ms(1), true),
            (troubled(), ms(1), true),
        ] {
            let ledger = Ledger::default();
            ledger.begin_phase("p", t);
            let op = ledger.begin(0, t);
            ledger.finish(op, entry, t + took);
            assert_eq!(
                ledger.last_disturbed(t + took).is_some(),
                disturbs,
                "{took:?}"
            );
        }
    }

    #[test]
    fn a_user_who_waits_is_disturbed_before_the_answer_comes() {
        let (ledger, t) = (Ledger::default(), Instant::now());
        ledger.begin_phase("p", t);
        ledger.begin(0, t);
        assert_eq!(ledger.last_disturbed(t + ms(900)), None);
        assert_eq!(ledger.last_disturbed(t + ms(1_100)), Some(t + ms(1_100)));
    }
}
