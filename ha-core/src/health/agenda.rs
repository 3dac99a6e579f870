use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::config::ConfigError;

/// Which of many endpoints is checked next: each at its time, and never more than a bound at once.
///
/// Checks that are due while the bound is reached start in the order of their due times as soon as others end, so that none is
/// passed over. Endpoints are plain numbers here; the caller gives each a new one.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ha_core::health::Agenda;
///
/// # #[allow(clippy::disallowed_methods)]
/// let now = Instant::now();
/// let mut agenda = Agenda::new(1)?;
/// agenda.add([7, 8], Duration::from_secs(5), now, 0.0);
/// assert_eq!(agenda.start(now), Some(7));
/// let later = now + Duration::from_secs(4);
/// assert_eq!(agenda.start(later), None, "8 is due, but one check is under way");
/// agenda.ended();
/// agenda.again(7, later + Duration::from_secs(5));
/// assert_eq!(agenda.start(later), Some(8));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Agenda {
    at_once: usize,
    running: usize,
    due: BTreeSet<(Instant, u64)>,
    when: HashMap<u64, Instant>,
}

impl Agenda {
    /// An agenda with no endpoints, and at most `at_once` checks under way.
    ///
    /// # Errors
    /// When `at_once` is 0.
    pub fn new(at_once: usize) -> Result<Self, ConfigError> {
        if at_once == 0 {
            return Err(ConfigError::new(
                "health.at_once",
                at_once,
                "must be at least 1",
            ));
        }
        Ok(Self {
            at_once,
            running: 0,
            due: BTreeSet::new(),
            when: HashMap::new(),
        })
    }

    /// Endpoints that are new. As many as may be checked at once are due now; more are spread evenly over one interval, so that
    /// they come neither as one burst now nor as one in each interval after. `random`, uniform in `0.0..1.0`, decides which is
    /// first, so that many clients do not begin with the same one.
    pub fn add(
        &mut self,
        ids: impl IntoIterator<Item = u64>,
        interval: Duration,
        now: Instant,
        random: f64,
    ) {
        let ids: Vec<_> = ids.into_iter().collect();
        let total = ids.len();
        for (i, id) in ids.into_iter().enumerate() {
            let wait = if total <= self.at_once {
                Duration::ZERO
            } else {
                interval.mul_f64((i as f64 / total as f64 + random).fract())
            };
            self.again(id, now + wait);
        }
    }

    /// The next check of this endpoint is due at `at`, whatever was said before.
    pub fn again(&mut self, id: u64, at: Instant) {
        self.remove(id);
        self.when.insert(id, at);
        self.due.insert((at, id));
    }

    /// This endpoint is gone. A check of it that is under way counts until [`ended`](Self::ended).
    pub fn remove(&mut self, id: u64) {
        if let Some(at) = self.when.remove(&id) {
            self.due.remove(&(at, id));
        }
    }

    /// The endpoint whose check starts now, if one is due and the bound allows. Call it until it says no more; call
    /// [`ended`](Self::ended) when the check has ended, whatever came of it.
    pub fn start(&mut self, now: Instant) -> Option<u64> {
        if self.running >= self.at_once {
            return None;
        }
        let (_, id) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.remove(id);
        self.running += 1;
        Some(id)
    }

    /// One check that was started has ended.
    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// When [`start`](Self::start) will have something. `None` while only the end of a check, or a new endpoint, can change that.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        if self.running >= self.at_once {
            return None;
        }
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn agenda(at_once: usize) -> (Agenda, Instant) {
        (Agenda::new(at_once).unwrap(), Instant::now())
    }

    fn started(agenda: &mut Agenda, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| agenda.start(now)).collect()
    }

    #[test]
    fn a_small_set_is_checked_at_once_and_a_large_one_over_an_interval() {
        let (mut small, now) = agenda(4);
        small.add(0..4, INTERVAL, now, 0.7);
        assert_eq!(started(&mut small, now), [0, 1, 2, 3]);

        let (mut large, now) = agenda(4);
        large.add(0..100, INTERVAL, now, 0.0);
        for step in 0..100 {
            let at = now + INTERVAL * step / 100;
            assert_eq!(
                large.start(at + Duration::from_micros(1)),
                Some(step.into())
            );
            assert_eq!(large.start(at + Duration::from_micros(1)), None);
            large.ended();
        }
    }

    #[test]
    fn clients_begin_a_large_set_at_different_places() {
        let (mut agenda, now) = agenda(1);
        agenda.add(0..10, INTERVAL, now, 0.31);
        assert_eq!(
            agenda.start(now + Duration::from_millis(100)),
            Some(7),
            "0.7 + 0.31 is the first past a whole interval"
        );
    }

    #[test]
    fn beyond_the_bound_checks_start_in_the_order_they_were_due() {
        let (mut agenda, now) = agenda(2);
        for (id, millis) in [(0, 0), (1, 1), (2, 9), (3, 5), (4, 7)] {
            agenda.again(id, now + Duration::from_millis(millis));
        }
        let late = now + INTERVAL;
        assert_eq!(started(&mut agenda, late), [0, 1]);
        assert_eq!(agenda.wake_at(), None, "only the end of a check helps");
        agenda.ended();
        assert_eq!(started(&mut agenda, late), [3]);
        agenda.ended();
        agenda.ended();
        assert_eq!(started(&mut agenda, late), [4, 2]);
    }

    #[test]
    fn an_endpoint_that_is_gone_is_never_started_and_leaves_nothing() {
        let (mut agenda, now) = agenda(2);
        agenda.add([1, 2], INTERVAL, now, 0.0);
        agenda.remove(1);
        agenda.remove(1);
        assert_eq!(started(&mut agenda, now), [2]);
        assert!(agenda.due.is_empty() && agenda.when.is_empty());
    }

    #[test]
    fn a_bound_of_nothing_is_refused() {
        let error = Agenda::new(0).unwrap_err().to_string();
        assert_eq!(error, "health.at_once is 0: must be at least 1");
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound_run_and_each_is_started_once_per_due_time(
            at_once in 1usize..6,
            steps in prop::collection::vec((0u8..3, 0u64..12, 0u64..40), 1..120),
        ) {
            let (mut agenda, now) = agenda(at_once);
            let mut expected = HashMap::new();
            let (mut running, mut clock) = (0usize, now);
            for (kind, id, millis) in steps {
                let at = clock + Duration::from_millis(millis);
                match kind {
                    0 => {
                        agenda.again(id, at);
                        expected.insert(id, at);
                    }
                    1 => {
                        agenda.remove(id);
                        expected.remove(&id);
                    }
                    _ if running > 0 => {
                        agenda.ended();
                        running -= 1;
                    }
                    _ => clock = at,
                }
                let free = at_once - running;
                let due = expected.values().filter(|at| **at <= clock).count();
                let started = started(&mut agenda, clock);
                prop_assert_eq!(started.len(), due.min(free));
                running += started.len();
                for id in started {
                    let at = expected.remove(&id).unwrap();
                    let earlier = expected.values().filter(|other| **other < at).count();
                    prop_assert_eq!(earlier, 0, "the earliest first");
                }
                let wake = expected.values().min().copied().filter(|_| running < at_once);
                prop_assert_eq!(agenda.wake_at(), wake);
            }
        }
    }
}
