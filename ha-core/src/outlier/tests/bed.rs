use super::*;

pub(super) struct Bed {
    pub(super) outliers: Outliers,
    pub(super) hosts: Vec<Arc<Counters>>,
    pub(super) start: Instant,
}

impl Bed {
    pub(super) fn new(n: usize) -> Self {
        Self::with(n, Config::default())
    }

    pub(super) fn with(n: usize, config: Config) -> Self {
        let start = Instant::now();
        let hosts: Vec<_> = (0..n).map(|_| Arc::new(Counters::new(&config))).collect();
        let mut bed = Self {
            outliers: Outliers::new(config, start).unwrap(),
            hosts,
            start,
        };
        bed.watch(n);
        bed
    }

    pub(super) fn watch(&mut self, n: usize) {
        let hosts = self.hosts.iter().take(n).enumerate();
        self.outliers
            .update(hosts.map(|(i, c)| (key(i), c.clone())));
    }

    pub(super) fn record(&self, i: usize, outcome: Outcome, times: u32) -> usize {
        (0..times).filter(|_| self.hosts[i].record(outcome)).count()
    }

    /// Failures spread among successes, so that no run is completed.
    pub(super) fn requests(&self, i: usize, requests: u32, failures: u32) {
        let (mut failed, mut succeeded) = (0, 0);
        for n in 1..=requests {
            let due = u64::from(n) * u64::from(failures) / u64::from(requests);
            if failed < due {
                failed += 1;
                let _ = self.hosts[i].record(Outcome::Failure);
            } else {
                succeeded += 1;
                let _ = self.hosts[i].record(Outcome::Success);
            }
        }
        assert_eq!(failed + succeeded, u64::from(requests));
    }

    pub(super) fn at(&mut self, seconds: u64) -> Sweep {
        self.outliers.sweep(self.start + SEC * seconds as u32)
    }

    pub(super) fn ejected(&self) -> Vec<usize> {
        let hosts = self.hosts.iter().enumerate();
        hosts
            .filter(|(_, c)| c.is_ejected())
            .map(|(i, _)| i)
            .collect()
    }
}

pub(super) fn only_intervals() -> Config {
    Config {
        consecutive_failures: None,
        consecutive_connect_failures: None,
        ..Config::default()
    }
}

pub(super) fn ejection(sweep: &Sweep) -> Option<(EndpointKey, Cause, u32)> {
    match sweep.changes.as_slice() {
        [
            Change::Ejected {
                key, cause, times, ..
            },
        ] => Some((key.clone(), *cause, *times)),
        _ => None,
    }
}
