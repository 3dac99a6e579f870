use std::time::{Duration, Instant};

use super::*;

#[cfg(not(ha_loom))]
mod config;
#[cfg(not(ha_loom))]
mod laws;
#[cfg(ha_loom)]
mod loom;
#[cfg(not(ha_loom))]
mod rules;
#[cfg(not(ha_loom))]
mod slow;

const SEC: Duration = Duration::from_secs(1);

struct Bed {
    breaker: Breaker,
    now: Instant,
}

impl Bed {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self {
            breaker: Breaker::new(config, now).unwrap(),
            now,
        }
    }

    fn call(&self, outcome: Outcome) -> Option<State> {
        let permit = self.breaker.try_admit(self.now).unwrap();
        self.breaker.record(permit, outcome, self.now, 0.0)
    }

    fn timed(&self, outcome: Outcome, took: Duration) -> Option<State> {
        let permit = self.breaker.try_admit(self.now).unwrap();
        self.breaker
            .record_timed(permit, outcome, took, self.now, 0.0)
    }

    fn state(&self) -> State {
        self.breaker.state(self.now)
    }
}

fn by_ratio_only() -> Config {
    Config {
        consecutive_failures: u32::MAX,
        ..Config::default()
    }
}
