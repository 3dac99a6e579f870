use super::*;

pub(super) const SEC: Duration = Duration::from_secs(1);

pub(super) struct Bed {
    pub(super) breaker: Breaker,
    pub(super) now: Instant,
}

impl Bed {
    pub(super) fn new(config: Config) -> Self {
        let now = Instant::now();
        Self {
            breaker: Breaker::new(config, now).unwrap(),
            now,
        }
    }

    pub(super) fn call(&self, outcome: Outcome) -> Option<State> {
        let permit = self.breaker.try_admit(self.now).unwrap();
        self.breaker.record(permit, outcome, self.now, 0.0)
    }

    pub(super) fn timed(&self, outcome: Outcome, took: Duration) -> Option<State> {
        let permit = self.breaker.try_admit(self.now).unwrap();
        self.breaker
            .record_timed(permit, outcome, took, self.now, 0.0)
    }

    pub(super) fn state(&self) -> State {
        self.breaker.state(self.now)
    }
}

pub(super) fn by_ratio_only() -> Config {
    Config {
        consecutive_failures: u32::MAX,
        ..Config::default()
    }
}
