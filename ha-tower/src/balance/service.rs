use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use ha_core::breaker::{self, Breaker};
use ha_core::config::ConfigError;
use ha_core::endpoint::{Endpoint, EndpointKey};
use ha_core::load::{self, PeakEwma};
use tower::BoxError;
use tower_service::Service;

use super::flight::{Changes, State};
use super::future::ResponseFuture;
use super::members::{Member, Members, Shared};
use super::{Any, Error, P2c, Policy, Protocol};
use crate::clock;

/// One service over many endpoints. See the [module](super).
#[derive(Debug)]
pub struct Balance<S, P = Any> {
    shared: Arc<Shared<S>>,
    protocol: P,
}

/// What changing the set needs and the pick does not.
#[derive(Debug)]
pub(super) struct Control {
    breaker: breaker::Config,
    // All loads are siblings of this one.
    load: PeakEwma,
    available_at_first: bool,
    updating: Mutex<()>,
}

impl<S, P: Clone> Clone for Balance<S, P> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            protocol: self.protocol.clone(),
        }
    }
}

impl<S> Balance<S> {
    /// Settings of a balancer over these endpoints. The list may be empty.
    pub fn builder(endpoints: impl IntoIterator<Item = (Endpoint, S)>) -> Builder<S> {
        Builder {
            endpoints: endpoints.into_iter().collect(),
            policy: Policy::default(),
            breaker: breaker::Config::default(),
            load: load::Config::default(),
            available_at_first: true,
            measures_latency: false,
            protocol: Any,
        }
    }
}

/// Settings of a [`Balance`].
#[derive(Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<S, P = Any> {
    endpoints: Vec<(Endpoint, S)>,
    policy: Policy,
    breaker: breaker::Config,
    load: load::Config,
    available_at_first: bool,
    measures_latency: bool,
    protocol: P,
}

impl<S, P> Builder<S, P> {
    /// How one is picked. Default [`P2c::peak_ewma`](super::P2c::peak_ewma).
    pub fn policy(mut self, policy: impl Into<Policy>) -> Self {
        self.policy = policy.into();
        self
    }

    /// The breaker of each endpoint. Default [`breaker::Config::default`].
    pub fn breaker(mut self, config: breaker::Config) -> Self {
        self.breaker = config;
        self
    }

    /// The load estimate of each endpoint. Default [`load::Config::default`].
    pub fn load(mut self, config: load::Config) -> Self {
        self.load = config;
        self
    }

    /// How requests and responses are read. Default [`Any`].
    pub fn protocol<Q>(self, protocol: Q) -> Builder<S, Q> {
        Builder {
            endpoints: self.endpoints,
            policy: self.policy,
            breaker: self.breaker,
            load: self.load,
            available_at_first: self.available_at_first,
            measures_latency: self.measures_latency,
            protocol,
        }
    }

    pub(crate) fn available_at_first(mut self, available: bool) -> Self {
        self.available_at_first = available;
        self
    }

    /// Measures latency also when the policy does not look at it.
    pub(crate) fn measure_latency(mut self) -> Self {
        self.measures_latency = true;
        self
    }

    /// Makes the balancer.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting makes no sense.
    pub fn build(self) -> Result<Balance<S, P>, ConfigError> {
        self.breaker.validate()?;
        let changes = Arc::new(Changes::default());
        let measures = self.measures_latency || Policy::from(P2c::peak_ewma()) == self.policy;
        let control = Control {
            breaker: self.breaker,
            load: PeakEwma::new(self.load, clock::now())?,
            available_at_first: self.available_at_first,
            updating: Mutex::new(()),
        };
        let mut members = HashMap::new();
        for (endpoint, service) in self.endpoints {
            let state = control.state(endpoint.key.clone(), &changes)?;
            members.insert(
                endpoint.key.clone(),
                Member {
                    endpoint,
                    state,
                    service,
                },
            );
        }
        let members = Members::new(members.into_values().collect());
        Ok(Balance {
            shared: Arc::new(Shared::new(
                members,
                self.policy,
                measures,
                control,
                changes,
            )),
            protocol: self.protocol,
        })
    }
}

impl Control {
    fn state(&self, key: EndpointKey, changes: &Arc<Changes>) -> Result<Arc<State>, ConfigError> {
        Ok(Arc::new(State::new(
            key,
            Breaker::new(self.breaker.clone(), clock::now())?,
            self.load.sibling(),
            self.available_at_first,
            changes.clone(),
        )))
    }
}

impl<S: Clone, P> Balance<S, P> {
    /// Replaces the set of endpoints. `service` is called for those that are new or have moved to another address; the
    /// others keep their service, and every key that was known keeps its state. Requests in flight finish.
    ///
    /// When a key comes twice, the last one counts.
    pub fn update(
        &self,
        endpoints: impl IntoIterator<Item = Endpoint>,
        mut service: impl FnMut(&Endpoint) -> S,
    ) {
        let _one_at_a_time = self
            .shared
            .control
            .updating
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.shared.members.load_full();
        let old: HashMap<_, _> = old.all().iter().map(|m| (&m.endpoint.key, m)).collect();
        let mut new = HashMap::new();
        for endpoint in endpoints {
            let known = old.get(&endpoint.key);
            let state = match known {
                Some(member) => member.state.clone(),
                // The settings were validated by `build`.
                None => match self
                    .shared
                    .control
                    .state(endpoint.key.clone(), &self.shared.changes)
                {
                    Ok(state) => state,
                    Err(_) => continue,
                },
            };
            let service = match known {
                Some(member) if member.endpoint.address == endpoint.address => {
                    member.service.clone()
                }
                _ => service(&endpoint),
            };
            new.insert(
                endpoint.key.clone(),
                Member {
                    endpoint,
                    state,
                    service,
                },
            );
        }
        let members = Members::new(new.into_values().collect());
        self.shared.members.store(Arc::new(members));
        self.shared.changes.mark();
    }
}

impl<S: Clone, P> Balance<S, P> {
    pub(crate) fn services(&self) -> Vec<(Endpoint, Arc<State>, S)> {
        let members = self.shared.members.load();
        members
            .all()
            .iter()
            .map(|m| (m.endpoint.clone(), m.state.clone(), m.service.clone()))
            .collect()
    }
}

impl<S, P> Balance<S, P> {
    /// How many endpoints are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.members.load().all().len()
    }

    /// Whether no endpoint is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether breakers are ignored now because fewer than half of the endpoints have a closed one.
    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.shared.is_panicking()
    }

    /// How many requests are in flight over all endpoints that are known.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let members = self.shared.members.load();
        members
            .all()
            .iter()
            .map(|m| u64::from(m.state.load.in_flight()))
            .sum()
    }

    pub(crate) fn states(&self) -> Vec<(Endpoint, Arc<State>)> {
        let members = self.shared.members.load();
        members
            .all()
            .iter()
            .map(|m| (m.endpoint.clone(), m.state.clone()))
            .collect()
    }

    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.shared.changes
    }
}

impl<S, P, R> Service<R> for Balance<S, P>
where
    S: Service<R> + Clone,
    S::Error: Into<BoxError>,
    P: Protocol<R, S::Response, S::Error> + Clone,
{
    type Response = P::Response;
    type Error = Error;
    type Future = ResponseFuture<S, R, P>;

    /// Always ready: the endpoint's own readiness is waited for in the future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> ResponseFuture<S, R, P> {
        let members = self.shared.members.load();
        let tried = self.protocol.tried(&request);
        let Some((member, flight)) = self.shared.pick(&members, tried, fastrand::u64(..)) else {
            return ResponseFuture::unavailable(self.protocol.clone(), members.all().len());
        };
        if let Some(tried) = tried {
            tried.record(member.state.key.clone());
        }
        ResponseFuture::picked(
            self.protocol.clone(),
            flight,
            member.service.clone(),
            request,
        )
    }
}
