use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chitchat::transport::UdpTransport;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion,
    spawn_chitchat,
};
use futures_util::stream;
use ha_core::config::ConfigError;
use ha_core::endpoint::{Endpoint, Weight};
use tokio::sync::watch;

use super::announcement::{encode, endpoints, name};
use super::{AnnouncementError, Error};
use crate::discover::{self, Source};

/// Looking up the seeds may take this long.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Ending the task may take this long; it only finishes a message.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Missed intervals after which a node counts as dead. Fewer mistake a pause for a death on busy machines.
const PHI: f64 = 8.0;
/// Rounds in which news reaches each of thousands of nodes, when each tells three others.
const ROUNDS_TO_ALL: u32 = 8;

/// Settings of a [`Node`], made by [`Node::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before join()"]
pub struct Builder {
    cluster: String,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    id: Option<String>,
    seeds: Vec<String>,
    interval: Duration,
    announced: BTreeMap<String, Endpoint>,
}

impl Builder {
    /// The address under which others reach the listening one. Default that one itself.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// The name of the node in messages, the same after each restart. Default its advertised address.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Where to begin: addresses or names, with port, of some nodes that are usually there. Names are looked up every minute. The first
    /// node has none.
    pub fn seeds<I>(mut self, seeds: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// The time between two rounds. Default 500 ms: a death shows after about four seconds, and a round costs three datagrams.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// What this node serves. A node may serve several services, and an edge none.
    pub fn announce(mut self, service: impl Into<String>, endpoint: Endpoint) -> Self {
        self.announced.insert(service.into(), endpoint);
        self
    }

    /// Opens the socket and begins to gossip. Seeds need not be there yet.
    ///
    /// # Errors
    /// [`Error`] names the field and the value, or says why the socket could not be opened.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn join(self) -> Result<Node, Error> {
        let advertise = self.validate().map_err(Error::Config)?;
        let announced = self.announced.iter().map(|(service, endpoint)| {
            let text = encode(service, endpoint)?;
            Ok((name(service), text))
        });
        let announced = announced.collect::<Result<Vec<_>, Error>>()?;
        let listen = self.listen;
        let spawned = spawn_chitchat(self.config(advertise), announced, &UdpTransport);
        let handle = tokio::time::timeout(START_LIMIT, spawned)
            .await
            .map_err(|_| Error::Timeout { limit: START_LIMIT })?
            .map_err(|source| Error::Listen {
                listen,
                source: source.into(),
            })?;
        let alive = handle.chitchat().lock().await.live_nodes_watcher();
        Ok(Node(Arc::new(Joined {
            handle,
            alive,
            interval: self.interval,
            announced: Mutex::new(self.announced),
        })))
    }

    fn validate(&self) -> Result<SocketAddr, ConfigError> {
        const FILLED: &str = "must not be empty";
        if self.cluster.is_empty() {
            return Err(ConfigError::new("gossip.cluster", "\"\"", FILLED));
        }
        if self.announced.contains_key("") {
            return Err(ConfigError::new("gossip.announce", "\"\"", FILLED));
        }
        ConfigError::positive("gossip.interval", self.interval)?;
        ConfigError::at_most_a_day("gossip.interval", self.interval)?;
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                let reason = "must be an address or a name with a port";
                let value = format_args!("{seed:?}");
                return Err(ConfigError::new("gossip.seeds", value, reason));
            }
        }
        let advertise = self.advertise.unwrap_or(self.listen);
        if advertise.ip().is_unspecified() || advertise.port() == 0 {
            let reason = "must be an address that other nodes can reach";
            return Err(ConfigError::new("gossip.advertise", advertise, reason));
        }
        Ok(advertise)
    }

    fn config(&self, advertise: SocketAddr) -> ChitchatConfig {
        let id = self.id.clone().unwrap_or_else(|| advertise.to_string());
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let generation = since_epoch.map_or(0, |time| time.as_millis() as u64);
        ChitchatConfig {
            chitchat_id: ChitchatId::new(id, generation, advertise),
            cluster_id: self.cluster.clone(),
            gossip_interval: self.interval,
            listen_addr: self.listen,
            seed_nodes: self.seeds.clone(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: 1_000,
                max_interval: self.interval.saturating_mul(20),
                initial_interval: self.interval.saturating_mul(2),
                dead_node_grace_period: Duration::from_secs(60 * 60),
            },
            marked_for_deletion_grace_period: Duration::from_secs(15 * 60),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V0,
        }
    }
}

/// One member of a gossiping cluster. Clones are the same node; it ends when the last clone and the last
/// [`source`](Node::source) of it are dropped, and then counts as dead for the others.
#[derive(Debug, Clone)]
pub struct Node(Arc<Joined>);

struct Joined {
    // Its task ends when this is dropped.
    handle: ChitchatHandle,
    alive: watch::Receiver<BTreeMap<ChitchatId, NodeState>>,
    interval: Duration,
    announced: Mutex<BTreeMap<String, Endpoint>>,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", self.handle.chitchat_id())
            .field("announced", &self.announced)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Settings of a node of this cluster that listens here, UDP. Nodes of other clusters are ignored.
    pub fn builder(cluster: impl Into<String>, listen: SocketAddr) -> Builder {
        Builder {
            cluster: cluster.into(),
            listen,
            advertise: None,
            id: None,
            seeds: Vec::new(),
            interval: Duration::from_millis(500),
            announced: BTreeMap::new(),
        }
    }

    /// The endpoints of a service, from all nodes that are alive. The [module](super) tells who is.
    pub fn source(&self, service: impl Into<String>) -> Source {
        let mut alive = self.0.alive.clone();
        // What is known now is the first set.
        alive.mark_changed();
        let hearing = Hearing {
            node: self.clone(),
            service: service.into(),
            alive,
            heard: VecDeque::new(),
            had_any: false,
            stopped: false,
        };
        Source::new(stream::unfold(hearing, |mut hearing| async move {
            let item = hearing.next().await?;
            Some((item.map_err(discover::Error::Gossip), hearing))
        }))
    }

    /// How many nodes are alive, this one included.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.0.alive.borrow().len()
    }

    /// Announces an endpoint, instead of what was announced for the service before.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Scheme`]. Nothing changed then.
    ///
    /// # Cancel safety
    /// A future that is dropped has announced or has not; calling again is safe.
    pub async fn announce(
        &self,
        service: impl Into<String>,
        endpoint: Endpoint,
    ) -> Result<(), Error> {
        let service = service.into();
        let text = encode(&service, &endpoint)?;
        self.announced().insert(service.clone(), endpoint);
        self.tell(&[(name(&service), text)]).await;
        Ok(())
    }

    /// Announces weight 0 for all that this node serves. The others hear of it within some rounds and pick it no more; requests
    /// in flight finish. Call it first when the process is told to stop.
    ///
    /// # Cancel safety
    /// A future that is dropped has announced or has not; calling again is safe.
    pub async fn drain(&self) {
        let drained: Vec<_> = {
            let mut announced = self.announced();
            for endpoint in announced.values_mut() {
                endpoint.weight = Weight::ZERO;
            }
            // What fitted before fits with a shorter number.
            let texts = announced.iter().map(|(service, endpoint)| {
                let text = encode(service, endpoint).ok()?;
                Some((name(service), text))
            });
            texts.flatten().collect()
        };
        self.tell(&drained).await;
    }

    /// Drains, gives the news the rounds it needs to reach everybody, and ends the node, whatever other clones there are. Sources of
    /// it bring nothing more.
    ///
    /// # Cancel safety
    /// A future that is dropped leaves the node draining and alive.
    pub async fn leave(self) {
        self.drain().await;
        tokio::time::sleep(self.0.interval.saturating_mul(ROUNDS_TO_ALL)).await;
        // It fails when the node has ended already.
        let _ = self.0.handle.initiate_shutdown();
        let ended = self.0.handle.termination_watcher();
        if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
            self.0.handle.abort();
        }
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Endpoint>> {
        let announced = self.0.announced.lock();
        announced.unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, values: &[(String, String)]) {
        let tell = |chitchat: &mut chitchat::Chitchat| {
            for (name, text) in values {
                chitchat.self_node_state().set(name, text);
            }
        };
        self.0.handle.with_chitchat(tell).await;
    }
}

/// A service that is being followed.
struct Hearing {
    node: Node,
    service: String,
    alive: watch::Receiver<BTreeMap<ChitchatId, NodeState>>,
    heard: VecDeque<Result<Vec<Endpoint>, AnnouncementError>>,
    had_any: bool,
    stopped: bool,
}

impl Hearing {
    async fn next(&mut self) -> Option<Result<Vec<Endpoint>, AnnouncementError>> {
        loop {
            if let Some(item) = self.heard.pop_front() {
                return Some(item);
            }
            if self.stopped {
                return None;
            }
            let ended = self.node.0.handle.termination_watcher();
            tokio::select! {
                biased;
                Ok(()) = self.alive.changed() => self.hear(),
                _ = ended => {
                    self.stopped = true;
                    return Some(Err(AnnouncementError::Stopped));
                }
            }
        }
    }

    fn hear(&mut self) {
        let (endpoints, errors) = endpoints(&self.service, &self.alive.borrow_and_update());
        self.heard.extend(errors.into_iter().map(Err));
        // Before anybody was heard of, an empty set is no loss.
        self.had_any |= !endpoints.is_empty();
        if self.had_any {
            self.heard.push_back(Ok(endpoints));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_that_make_no_sense_are_refused_by_name_and_value() {
        let listen: SocketAddr = ([127, 0, 0, 1], 7946).into();
        let builder = || Node::builder("shop", listen);
        let endpoint = || "http://a".parse::<Endpoint>().unwrap();
        for (builder, field) in [
            (Node::builder("", listen), "gossip.cluster"),
            (builder().interval(Duration::ZERO), "gossip.interval"),
            (builder().seeds(["edges.internal"]), "\"edges.internal\""),
            (builder().seeds(["10.0.0.1:0"]), "gossip.seeds"),
            (builder().announce("", endpoint()), "gossip.announce"),
            (
                builder().advertise(([0, 0, 0, 0], 7946).into()),
                "0.0.0.0:7946",
            ),
            (
                builder().advertise(([127, 0, 0, 1], 0).into()),
                "gossip.advertise",
            ),
        ] {
            let error = builder.join().await.unwrap_err();
            let Error::Config(inner) = &error else {
                panic!("{field}: {error}");
            };
            assert!(inner.to_string().contains(field), "{field}: {inner}");
        }
    }
}
