use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ha_core::config::ConfigError;
use ha_core::endpoint::{Endpoint, EndpointKey};
use ha_core::health::{Agenda, Finding, Health};
use tokio::sync::watch;
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::check::Settings;
use super::probe::Ask;
use super::{Check, Event, Failure, Reason, State};
use crate::balance;
use crate::clock;
use crate::task::Owned;

type Set = Vec<(Endpoint, Arc<balance::State>)>;
type Answer = Result<Finding, Failure>;

/// The checks of one upstream. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Checks {
    // Only the newest set counts, so that one place is queue enough.
    sets: watch::Sender<Set>,
    _task: Owned,
}

impl Checks {
    /// Starts the task that owns the checks.
    pub(crate) fn start(check: Check, upstream: Arc<str>) -> Result<Self, ConfigError> {
        check.validate()?;
        let (sets, changed) = watch::channel(Vec::new());
        let checker = Checker {
            upstream,
            agenda: Agenda::new(check.settings.at_once)?,
            fresh: Health::new(check.settings.config.clone())?,
            probe: check.probe.0,
            settings: check.settings,
            subjects: HashMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            running: JoinSet::new(),
            asked: HashMap::new(),
        };
        Ok(Self {
            sets,
            _task: Owned::spawn(checker.run(changed)),
        })
    }

    /// Checks these endpoints from now on, and no others.
    pub(crate) fn follow(&self, members: Set) {
        self.sets.send_replace(members);
    }
}

/// One endpoint that is checked.
#[derive(Debug)]
struct Subject {
    endpoint: Endpoint,
    state: Arc<balance::State>,
    health: Health,
    running: Option<AbortHandle>,
}

/// One task that owns the checks of all endpoints: the agenda says which starts, the set of running ones what they found.
#[derive(Debug)]
struct Checker {
    upstream: Arc<str>,
    probe: Arc<dyn Ask>,
    settings: Settings,
    agenda: Agenda,
    fresh: Health,
    // Not by key: an endpoint that comes back under its old key is another one.
    subjects: HashMap<u64, Subject>,
    ids: HashMap<EndpointKey, u64>,
    next_id: u64,
    running: JoinSet<Answer>,
    // Whom a running check is about. One that was given up is not in here.
    asked: HashMap<task::Id, u64>,
}

impl Checker {
    async fn run(mut self, mut sets: watch::Receiver<Set>) {
        loop {
            self.start_due();
            let wake = self.agenda.wake_at().map(tokio::time::Instant::from_std);
            let due = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = sets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let set = sets.borrow_and_update().clone();
                    self.follow(set);
                }
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = due => {}
            }
        }
    }

    fn follow(&mut self, set: Set) {
        let mut gone = std::mem::take(&mut self.ids);
        let mut new = Vec::new();
        for (endpoint, state) in set {
            let key = endpoint.key.clone();
            let id = match gone.remove(&key) {
                // A set in which it was missing may have been passed over; as long as it is checked its state is kept.
                Some(id) => {
                    self.keep(id, endpoint);
                    id
                }
                None => {
                    let id = self.admit(endpoint, state);
                    new.push(id);
                    id
                }
            };
            self.ids.insert(key, id);
        }
        for id in gone.into_values() {
            self.agenda.remove(id);
            if let Some(subject) = self.subjects.remove(&id) {
                self.give_up(subject.running);
            }
        }
        let interval = self.settings.config.interval;
        self.agenda
            .add(new, interval, clock::now(), fastrand::f64());
    }

    fn admit(&mut self, endpoint: Endpoint, state: Arc<balance::State>) -> u64 {
        self.next_id += 1;
        let subject = Subject {
            endpoint,
            state,
            health: self.fresh.clone(),
            running: None,
        };
        self.subjects.insert(self.next_id, subject);
        self.next_id
    }

    fn keep(&mut self, id: u64, endpoint: Endpoint) {
        let Some(subject) = self.subjects.get_mut(&id) else {
            return;
        };
        let moved = subject.endpoint.address != endpoint.address;
        subject.endpoint = endpoint;
        if moved {
            let running = subject.running.take();
            self.give_up(running);
            self.agenda.again(id, clock::now());
        }
    }

    // It still counts as running until it has ended.
    fn give_up(&mut self, running: Option<AbortHandle>) {
        if let Some(check) = running {
            self.asked.remove(&check.id());
            check.abort();
        }
    }

    fn start_due(&mut self) {
        let now = clock::now();
        while let Some(id) = self.agenda.start(now) {
            let Some(subject) = self.subjects.get_mut(&id) else {
                // Cannot be: both are kept in step.
                self.agenda.ended();
                continue;
            };
            let (probe, endpoint) = (self.probe.clone(), subject.endpoint.clone());
            let limit = self.settings.timeout();
            let check = self.running.spawn(async move {
                let answer = timeout(limit, probe.ask(endpoint)).await;
                answer.unwrap_or(Err(Failure::Timeout { limit }))
            });
            self.asked.insert(check.id(), id);
            subject.running = Some(check);
        }
    }

    fn ended(&mut self, ended: Result<(task::Id, Answer), JoinError>) {
        self.agenda.ended();
        let (check, answer) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Failure::Panicked)),
        };
        if let Some(id) = self.asked.remove(&check) {
            self.answered(id, answer);
        }
    }

    fn answered(&mut self, id: u64, answer: Answer) {
        let Some(subject) = self.subjects.get_mut(&id) else {
            return;
        };
        subject.running = None;
        #[cfg(feature = "metrics")]
        count(&self.upstream, &subject.endpoint.key, &answer);
        if let Err(failure) = &answer {
            let error: &(dyn std::error::Error + 'static) = failure;
            crate::trace::debug!(upstream = %self.upstream, endpoint = %subject.endpoint.key, error, "health check failed");
        }
        let teller = Teller {
            upstream: &self.upstream,
            settings: &self.settings,
        };
        // A response to traffic may have said it since the last check.
        let drains = State::Draining;
        if subject.state.health() == drains && subject.health.state() != drains {
            teller.observe(subject, Finding::Draining, || Reason::SaidToTraffic);
        }
        let finding = *answer.as_ref().unwrap_or(&Finding::Fail);
        teller.observe(subject, finding, || Reason::of(answer));
        let next = clock::now() + subject.health.next_check_in(fastrand::f64());
        self.agenda.again(id, next);
    }
}

#[cfg(feature = "metrics")]
fn count(upstream: &str, endpoint: &EndpointKey, answer: &Answer) {
    let result = match answer {
        Ok(Finding::Pass) => "passed",
        Ok(Finding::Draining) => "draining",
        Ok(Finding::RegionSick) => "region_sick",
        Ok(_) | Err(_) => "failed",
    };
    let (upstream, endpoint) = (upstream.to_owned(), endpoint.to_string());
    metrics::counter!(
        "ha_health_checks_total", "upstream" => upstream, "endpoint" => endpoint, "result" => result
    )
    .increment(1);
}

struct Teller<'a> {
    upstream: &'a Arc<str>,
    settings: &'a Settings,
}

impl Teller<'_> {
    /// Applies a finding, and tells when it changed something.
    fn observe(&self, subject: &mut Subject, finding: Finding, reason: impl FnOnce() -> Reason) {
        let from = subject.health.state();
        let Some(to) = subject.health.observe(finding) else {
            return;
        };
        let available = subject.health.is_available();
        subject.state.set_health(to, available);
        self.tell(&Event {
            upstream: self.upstream.clone(),
            endpoint: subject.endpoint.key.clone(),
            from,
            to,
            reason: reason(),
            available,
        });
    }

    fn tell(&self, event: &Event) {
        crate::trace::info!(
            upstream = %event.upstream,
            endpoint = %event.endpoint,
            from = ?event.from,
            to = ?event.to,
            reason = ?event.reason,
            available = event.available,
            "health changed"
        );
        for listener in &self.settings.listeners {
            // It must not take the checks with it.
            if catch_unwind(AssertUnwindSafe(|| (listener.0)(event))).is_err() {
                crate::trace::error!(upstream = %event.upstream, "a listener of health events panicked");
            }
        }
    }
}
