//! How far behind a replica is, from what the primary had flushed and when: no heartbeat rows, no clocks of others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::Lsn;

/// Samples kept: 100 s of constant writing at ten probes a second; beyond it old samples are merged, which can only
/// make lag look greater.
const CAPACITY: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Sample {
    lsn: Lsn,
    first: Instant,
    last: Instant,
}

/// What the primary had flushed, over time.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    samples: VecDeque<Sample>,
}

impl Ring {
    /// The primary had flushed `lsn` at `now`.
    pub(crate) fn push(&mut self, lsn: Lsn, now: Instant) {
        if let Some(newest) = self.samples.back_mut().filter(|newest| lsn <= newest.lsn) {
            newest.last = now;
            return;
        }
        if self.samples.len() == CAPACITY {
            self.merge_older_half();
        }
        self.samples.push_back(Sample {
            lsn,
            first: now,
            last: now,
        });
    }

    fn merge_older_half(&mut self) {
        let samples: Vec<Sample> = self.samples.drain(..).collect();
        let (old, new) = samples.split_at(CAPACITY / 2);
        // The later position with the earlier times: whoever lies between the two is taken for further behind.
        self.samples.extend(old.chunks_exact(2).map(|pair| Sample {
            lsn: pair[1].lsn,
            first: pair[0].first,
            last: pair[0].last,
        }));
        self.samples.extend(new);
    }

    /// A new timeline begins at `lsn`: what the old primary had past it is no measure any more.
    pub(crate) fn cut(&mut self, lsn: Lsn) {
        self.samples.retain(|sample| sample.lsn <= lsn);
    }

    /// Age of the oldest flush that `replayed` does not cover, zero when it covers all. While the primary is gone it
    /// is at least the time since it was last seen. `None` before any primary was seen.
    pub(crate) fn lag(&self, replayed: Lsn, primary_up: bool, now: Instant) -> Option<Duration> {
        let newest = self.samples.back()?;
        let behind = self
            .samples
            .iter()
            .find(|sample| sample.lsn > replayed)
            .map_or(Duration::ZERO, |sample| {
                now.saturating_duration_since(sample.first)
            });
        let gone = if primary_up {
            Duration::ZERO
        } else {
            now.saturating_duration_since(newest.last)
        };
        Some(behind.max(gone))
    }

    /// The latest moment at which `replayed` was certainly all there was.
    pub(crate) fn fresh_at(&self, replayed: Lsn) -> Option<Instant> {
        self.samples
            .iter()
            .rev()
            .find(|sample| sample.lsn <= replayed)
            .map(|sample| sample.last)
    }
}

/// Ejects a replica that is too far behind, and readmits it when it has been well within the bound for a while.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gate {
    ejected: bool,
    good: u32,
}

impl Gate {
    pub(crate) fn update(&mut self, lag: Option<Duration>, max: Duration, readmit_after: u32) {
        match lag {
            Some(lag) if !self.ejected && lag <= max => {}
            Some(lag) if self.ejected && lag < max / 2 => {
                self.good += 1;
                if self.good >= readmit_after {
                    *self = Self::default();
                }
            }
            _ => {
                *self = Self {
                    ejected: true,
                    good: 0,
                }
            }
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_idle_primary_and_then_one_write_is_no_lag() {
        let start = Instant::now();
        let mut ring = Ring::default();
        for tick in 0..200 {
            ring.push(Lsn(10), start + ms(100 * tick));
        }
        let now = start + ms(20_000);
        ring.push(Lsn(20), now);
        // The time since the last replayed commit, which the naive formula reports, is 20 s.
        assert_eq!(ring.lag(Lsn(10), true, now + ms(50)), Some(ms(50)));
        assert_eq!(ring.lag(Lsn(20), true, now + ms(50)), Some(ms(0)));
        assert_eq!(ring.fresh_at(Lsn(10)), Some(start + ms(19_900)));
    }

    #[test]
    fn lag_grows_while_the_primary_is_gone() {
        let start = Instant::now();
        let mut ring = Ring::default();
        assert_eq!(ring.lag(Lsn(10), false, start), None);
        ring.push(Lsn(10), start);
        assert_eq!(ring.lag(Lsn(10), false, start + ms(700)), Some(ms(700)));
        assert_eq!(ring.lag(Lsn(10), true, start + ms(700)), Some(ms(0)));
    }

    #[test]
    fn a_replica_on_the_edge_does_not_flap() {
        let mut gate = Gate::default();
        gate.update(Some(ms(501)), ms(500), 3);
        assert!(gate.is_ejected());
        for lag in [100, 100, 300, 100, 100] {
            gate.update(Some(ms(lag)), ms(500), 3);
            assert!(gate.is_ejected(), "readmitted early at {lag} ms");
        }
        gate.update(Some(ms(100)), ms(500), 3);
        assert!(!gate.is_ejected());
        gate.update(None, ms(500), 3);
        assert!(gate.is_ejected(), "unknown is too much");
    }

    proptest! {
        #[test]
        fn merging_never_hides_lag(steps in prop::collection::vec((1u64..50, 1u64..200), 1500..4000), at in 0.0f64..1.0) {
            let start = Instant::now();
            let (mut ring, mut all) = (Ring::default(), Vec::new());
            let (mut lsn, mut time) = (0, 0);
            for (bytes, wait) in steps {
                lsn += bytes;
                time += wait;
                ring.push(Lsn(lsn), start + ms(time));
                all.push((lsn, time));
            }
            let replayed = (lsn as f64 * at) as u64;
            let exact = all.iter().find(|(l, _)| *l > replayed).map_or(0, |(_, t)| time - t);
            let lag = ring.lag(Lsn(replayed), true, start + ms(time)).unwrap();
            prop_assert!(lag >= ms(exact), "{lag:?} < {exact}");
        }
    }
}
