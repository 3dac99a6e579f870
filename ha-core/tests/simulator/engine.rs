use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ha_core::breaker::Permit;
use ha_core::endpoint::Endpoint;

use crate::client::{Client, Ending, Settings};
use crate::random::Random;
use crate::report::{Report, Sample};
use crate::server::Server;

/// How requests come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrivals {
    /// So many per second, whatever becomes of them, at random moments.
    Open(f64),
    /// From so many clients, each of which waits for its answer first.
    Closed(usize),
}

#[derive(Debug)]
enum Event {
    Arrive,
    End(Attempt),
    Check(usize),
    Sweep,
    Look,
}

#[derive(Debug)]
struct Attempt {
    server: usize,
    permit: Option<Permit>,
    began: Duration,
    ending: Ending,
    hash: u64,
    in_flight: (u32, u32),
}

/// One run. Time counts from its start.
pub(crate) struct World {
    client: Client,
    servers: Vec<Server>,
    arrivals: Arrivals,
    // By time, then in the order in which they were planned.
    events: BTreeMap<(Duration, u64), Event>,
    planned: u64,
    next_sweep: Duration,
    start: Instant,
    random: Random,
    report: Report,
}

// A closed loop that gets no endpoint would otherwise spin in one moment.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
const KEYS: u64 = 10_000;

impl World {
    pub(crate) fn new(
        settings: Settings,
        endpoints: &[Endpoint],
        servers: Vec<Server>,
        arrivals: Arrivals,
        seed: u64,
    ) -> Self {
        assert_eq!(endpoints.len(), servers.len());
        let start = Instant::now();
        let mut world = Self {
            report: Report {
                servers: servers.len(),
                ..Report::default()
            },
            client: Client::new(settings, endpoints, start),
            servers,
            arrivals,
            events: BTreeMap::new(),
            planned: 0,
            next_sweep: Duration::MAX,
            start,
            random: Random::new(seed),
        };
        let clients = match arrivals {
            Arrivals::Open(_) => 1,
            Arrivals::Closed(clients) => clients,
        };
        (0..clients).for_each(|_| world.plan(Duration::ZERO, Event::Arrive));
        world.plan_checks();
        world.sweep(Duration::ZERO);
        world
    }

    /// Runs until `end` and returns what happened.
    pub(crate) fn run(mut self, end: Duration) -> Report {
        self.run_until(end);
        self.report
    }

    /// Runs until `end`, to go on later.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                return;
            }
            let ((at, _), event) = entry.remove_entry();
            self.happen(at, event);
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The moment of the caller's clock that is so long after the start.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    fn plan(&mut self, at: Duration, event: Event) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    fn plan_checks(&mut self) {
        let Some(checks) = self.client.settings.checks.clone() else {
            return;
        };
        for i in 0..self.servers.len() {
            let first = checks.interval.mul_f64(self.random.unit());
            self.plan(first, Event::Check(i));
        }
    }

    fn happen(&mut self, at: Duration, event: Event) {
        match event {
            Event::Arrive => self.arrive(at),
            Event::End(attempt) => self.end(at, attempt),
            Event::Check(i) => self.check(at, i),
            Event::Sweep if at == self.next_sweep => self.sweep(at),
            // An earlier sweep has replaced this one.
            Event::Sweep => {}
            Event::Look => {
                let now = self.instant(at);
                self.client.look(now);
            }
        }
    }

    fn arrive(&mut self, at: Duration) {
        if let Arrivals::Open(per_second) = self.arrivals {
            let gap = self
                .random
                .exponential(Duration::from_secs_f64(1.0 / per_second));
            self.plan(at + gap, Event::Arrive);
        }
        let now = self.instant(at);
        let hash = self.random.bits() % KEYS;
        let Some((server, permit)) = self.client.pick(hash, now, &mut self.random) else {
            self.report.samples.push(Sample {
                at,
                server: None,
                latency: Duration::ZERO,
                ok: false,
                hash,
                in_flight: (0, 0),
            });
            self.next_of_loop(at + REFUSED_PAUSE);
            return;
        };
        let deadline = at + self.client.settings.timeout;
        let answer = self.servers[server].answer(at, &mut self.random);
        let (end, ending) = match answer {
            Some((end, reply)) if end <= deadline => (end, Ending::Reply(reply)),
            _ => (deadline, Ending::TimedOut),
        };
        let attempt = Attempt {
            server,
            permit,
            began: at,
            ending,
            hash,
            in_flight: self.client.in_flight(server),
        };
        self.plan(end, Event::End(attempt));
    }

    fn end(&mut self, at: Duration, attempt: Attempt) {
        let latency = at - attempt.began;
        let now = self.instant(at);
        self.report.samples.push(Sample {
            at: attempt.began,
            server: Some(attempt.server),
            latency,
            ok: attempt.ending == Ending::Reply(crate::server::Reply::Ok),
            hash: attempt.hash,
            in_flight: attempt.in_flight,
        });
        let random = self.random.unit();
        let wanted = self.client.finish(
            attempt.server,
            attempt.permit,
            attempt.ending,
            latency,
            now,
            random,
        );
        if wanted.sweep {
            self.sweep(at);
        }
        if let Some(wait) = wanted.look_in {
            self.plan(at + wait, Event::Look);
        }
        self.next_of_loop(at);
    }

    fn next_of_loop(&mut self, at: Duration) {
        if let Arrivals::Closed(_) = self.arrivals {
            self.plan(at, Event::Arrive);
        }
    }

    fn check(&mut self, at: Duration, i: usize) {
        let (pass, took) = self.servers[i].check(at, CHECK_TIMEOUT);
        let (now, random) = (self.instant(at), self.random.unit());
        let wait = self.client.check(i, pass, now, random);
        self.plan(at + took + wait, Event::Check(i));
    }

    fn sweep(&mut self, at: Duration) {
        let now = self.instant(at);
        let Some((changes, next)) = self.client.sweep(now) else {
            return;
        };
        self.report.sweeps += 1;
        let changes = changes.into_iter().map(|change| (at, change));
        self.report.ejections.extend(changes);
        self.next_sweep = next.duration_since(self.start);
        self.plan(self.next_sweep, Event::Sweep);
    }
}
