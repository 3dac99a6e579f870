use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_core::breaker::{self, Breaker, Permit};
use ha_core::endpoint::{Endpoint, EndpointKey, Weight};
use ha_core::hash::Bound;
use ha_core::health::{self, Finding, Health};
use ha_core::load::{self, PeakEwma};
use ha_core::outlier::{self, Change, Counters, Outliers};
use ha_core::slow_start::{self, Ramp};
use ha_core::spread::{self, Layout, Shares, Standing};

use crate::picker::{Picker, Policy, View};
use crate::random::Random;
use crate::server::Reply;

/// What the caller is made of. What is `None` is off.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) breaker: Option<breaker::Config>,
    pub(crate) checks: Option<health::Config>,
    pub(crate) outlier: Option<outlier::Config>,
    pub(crate) slow_start: Option<slow_start::Config>,
    pub(crate) load: load::Config,
    pub(crate) spread: spread::Config,
    /// How far above its share of what is in flight a hash policy may load an endpoint.
    pub(crate) bound: f64,
    /// How long it waits for an answer.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// The policy and nothing else.
    pub(crate) fn bare(policy: Policy) -> Self {
        Self {
            policy,
            breaker: None,
            checks: None,
            outlier: None,
            slow_start: None,
            load: load::Config::default(),
            spread: spread::Config::default(),
            bound: Bound::DEFAULT_FACTOR,
            timeout: Duration::from_secs(1),
        }
    }

    /// Everything, with its defaults.
    pub(crate) fn full(policy: Policy) -> Self {
        Self {
            breaker: Some(breaker::Config::default()),
            checks: Some(health::Config::default()),
            outlier: Some(outlier::Config::default()),
            slow_start: Some(slow_start::Config::default()),
            ..Self::bare(policy)
        }
    }
}

struct State {
    key: EndpointKey,
    load: PeakEwma,
    breaker: Option<Breaker>,
    health: Option<Health>,
    counters: Arc<Counters>,
    ramp: Ramp,
}

/// How a request ended, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Reply(Reply),
    TimedOut,
}

/// What an ending asks of the world.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) sweep: bool,
    /// A breaker has opened: look again when its wait is over.
    pub(crate) look_in: Option<Duration>,
}

/// The caller: real parts, put together as a balancer does.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    states: Vec<State>,
    standings: Vec<Standing>,
    layout: Layout,
    shares: Shares,
    pickers: Vec<Picker>,
    outliers: Option<Outliers>,
}

/// An endpoint list of `n` with weight 1.
pub(crate) fn endpoints(n: usize) -> Vec<Endpoint> {
    (0..n)
        .map(|i| format!("http://host{i:05}:80").parse().unwrap())
        .collect()
}

/// The same with these weights.
pub(crate) fn weighted(weights: &[u32]) -> Vec<Endpoint> {
    let pairs = endpoints(weights.len()).into_iter().zip(weights);
    pairs
        .map(|(endpoint, weight)| endpoint.with_weight(Weight::new(*weight).unwrap()))
        .collect()
}

impl Client {
    pub(crate) fn new(settings: Settings, endpoints: &[Endpoint], now: Instant) -> Self {
        let load = PeakEwma::new(settings.load.clone(), now).unwrap();
        let outlier = settings.outlier.clone().unwrap_or_default();
        let slow_start = settings.slow_start.clone().unwrap_or_default();
        let state = |endpoint: &Endpoint| State {
            key: endpoint.key.clone(),
            load: load.sibling(),
            breaker: settings
                .breaker
                .clone()
                .map(|c| Breaker::new(c, now).unwrap()),
            health: settings.checks.clone().map(|c| Health::new(c).unwrap()),
            counters: Arc::new(Counters::new(&outlier)),
            ramp: Ramp::new(slow_start.clone(), now).unwrap(),
        };
        let states: Vec<State> = endpoints.iter().map(state).collect();
        let layout = Layout::new(&settings.spread, endpoints).unwrap();
        let picker = |group: &spread::Group| {
            let members: Vec<usize> = group.members.iter().map(|i| *i as usize).collect();
            let keys = members.iter().zip(group.weights());
            let keys: Vec<_> = keys.map(|(i, w)| (endpoints[*i].key.clone(), *w)).collect();
            Picker::new(settings.policy, members, &keys, settings.bound)
        };
        let pickers = layout.groups().iter().map(picker).collect();
        let outliers = settings.outlier.clone().map(|config| {
            let mut outliers = Outliers::new(config, now).unwrap();
            outliers.update(states.iter().map(|s| (s.key.clone(), s.counters.clone())));
            outliers
        });
        Self {
            shares: layout.shares(|_| Standing::Available),
            standings: vec![Standing::Available; states.len()],
            settings,
            states,
            layout,
            pickers,
            outliers,
        }
    }

    /// The endpoint for one request, and the leave of its breaker.
    pub(crate) fn pick(
        &mut self,
        hash: u64,
        now: Instant,
        random: &mut Random,
    ) -> Option<(usize, Option<Permit>)> {
        let drawn = self.shares.draw(random.bits())?;
        let groups = std::iter::once(drawn).chain(self.shares.others(drawn));
        let found = groups.into_iter().find_map(|group| {
            let view = Now {
                client: self,
                now,
                panic: self.shares.is_panicking(group),
            };
            self.pickers[group].pick(&view, hash, now, random)
        })?;
        let state = &self.states[found];
        state.load.start();
        state.load.picked(now);
        // In panic there may be no leave.
        let permit = state.breaker.as_ref().and_then(|b| b.try_admit(now).ok());
        Some((found, permit))
    }

    /// Requests in flight there and in all.
    pub(crate) fn in_flight(&self, i: usize) -> (u32, u32) {
        let each = self.states.iter().map(|state| state.load.in_flight());
        (self.states[i].load.in_flight(), each.sum())
    }

    /// Takes the end of a request.
    pub(crate) fn finish(
        &mut self,
        i: usize,
        permit: Option<Permit>,
        ending: Ending,
        elapsed: Duration,
        now: Instant,
        random: f64,
    ) -> Wanted {
        let state = &self.states[i];
        state.load.finish();
        let (of_breaker, of_outlier) = match ending {
            Ending::Reply(Reply::Ok) => {
                state.load.record(elapsed, now);
                (breaker::Outcome::Success, outlier::Outcome::Success)
            }
            Ending::Reply(Reply::Refused) => {
                state.load.penalize(None, now);
                (breaker::Outcome::Failure, outlier::Outcome::ConnectFailure)
            }
            Ending::Reply(Reply::Error) | Ending::TimedOut => {
                state.load.penalize(None, now);
                (breaker::Outcome::Failure, outlier::Outcome::Failure)
            }
        };
        if ending == Ending::TimedOut {
            state.load.record_unanswered(elapsed, now);
        }
        let mut wanted = Wanted {
            sweep: self.outliers.is_some() && state.counters.record(of_outlier),
            look_in: None,
        };
        if let (Some(breaker), Some(permit)) = (&state.breaker, permit)
            && let Some(new) = breaker.record(permit, of_breaker, now, random)
        {
            if new == breaker::State::Open {
                wanted.look_in = breaker.try_admit(now).err().and_then(|r| r.retry_in);
            }
            self.look(now);
        }
        wanted
    }

    /// Takes the result of an active check and says when the next one is due.
    pub(crate) fn check(&mut self, i: usize, pass: bool, now: Instant, random: f64) -> Duration {
        let state = &mut self.states[i];
        let health = state.health.as_mut().unwrap();
        let from = health.state();
        let changed = health.observe(if pass { Finding::Pass } else { Finding::Fail });
        let wait = health.next_check_in(random);
        if let Some(to) = changed {
            if let Some(outliers) = &mut self.outliers {
                outliers.check_changed(&state.key, from, to);
            }
            self.look(now);
        }
        wait
    }

    /// Sweeps, and says what changed and when to sweep again.
    pub(crate) fn sweep(&mut self, now: Instant) -> Option<(Vec<Change>, Instant)> {
        let sweep = self.outliers.as_mut()?.sweep(now);
        self.look(now);
        Some((sweep.changes, sweep.next))
    }

    /// Begins the slow start of one as if it had just been added.
    pub(crate) fn begin_new(&self, i: usize, now: Instant) {
        self.states[i].ramp.begin_new(now);
    }

    /// Computes the shares anew. One that is available again, by all signals, begins its ramp.
    pub(crate) fn look(&mut self, now: Instant) {
        let states = 0..self.states.len();
        let fresh: Vec<_> = states.map(|i| self.standing(i, now)).collect();
        for ((state, old), new) in self.states.iter().zip(&self.standings).zip(&fresh) {
            if *new == Standing::Available && old != new {
                state.ramp.begin_recovered(now);
            }
        }
        self.shares = self.layout.shares(|i| fresh[i]);
        self.standings = fresh;
    }

    fn standing(&self, i: usize, now: Instant) -> Standing {
        let state = &self.states[i];
        let admits = |breaker: &Breaker| breaker.is_closed() || breaker.would_admit(now);
        if !state.passes_checks() {
            Standing::Failing
        } else if state.counters.is_ejected() || !state.breaker.as_ref().is_none_or(admits) {
            Standing::Suspect
        } else {
            Standing::Available
        }
    }
}

impl State {
    fn passes_checks(&self) -> bool {
        self.health.as_ref().is_none_or(Health::is_available)
    }
}

struct Now<'a> {
    client: &'a Client,
    now: Instant,
    panic: bool,
}

impl View for Now<'_> {
    fn load(&self, i: usize) -> &PeakEwma {
        &self.client.states[i].load
    }

    fn is_available(&self, i: usize) -> bool {
        match self.client.standing(i, self.now) {
            Standing::Available => true,
            Standing::Suspect => self.panic,
            _ => false,
        }
    }

    fn accepts(&self, i: usize, random: &mut Random) -> bool {
        self.client.settings.slow_start.is_none()
            || self.client.states[i].ramp.accepts(self.now, random.bits())
    }
}
