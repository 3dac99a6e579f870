//! The nodes of a cluster: which there are, who has which slot, and a supervisor for each master.

pub(super) mod asking;
pub(super) mod keys;
mod view;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use self::keys::Place;
use self::view::{Node, View};
use super::dial::{Link, refused};
use super::error::Failure;
use super::follow::Reason;
use super::seat::{Held, Seat, lock};
use super::shared::Shared;
use super::status::NodeStatus;
use super::supervisor::{self, Finder};
use super::url::{DEFAULT_PORT, split_address};

/// Between two looks that somebody asked for: an answer takes about as long, and what it says is then news to all of them.
const AT_MOST_EVERY: Duration = Duration::from_millis(5);
/// How many connected nodes are asked in one look. A failover is known to all of them within moments.
const ASKED: usize = 16;
/// How many nodes are connected only to ask them, while something is not as it should be.
const DIALLED: usize = 4;

/// A master of the cluster, with the task that keeps it connected.
struct Member {
    address: String,
    seat: Arc<Seat>,
    task: AbortHandle,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
        self.seat.vacate(Reason::ClusterDisagrees);
    }
}

/// The view, with a seat for each master in it.
#[derive(Default)]
struct Map {
    view: View,
    /// In the order of the view's nodes; none for a replica.
    members: Vec<Option<Arc<Member>>>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Member> {
        self.members.get(self.view.owner(slot)?)?.as_deref()
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().flatten()
    }

    /// Every slot has an owner that is connected.
    fn is_settled(&self) -> bool {
        let owners = self.view.nodes.iter().zip(&self.members);
        self.view.is_complete()
            && owners
                .filter(|(node, _)| node.slots > 0)
                .all(|(_, member)| member.as_ref().is_some_and(|m| m.seat.lease().is_some()))
    }
}

/// What is known of the cluster.
pub(super) struct Cluster {
    seeds: Vec<String>,
    map: ArcSwap<Map>,
    refresh: Notify,
    failure: Mutex<Option<Arc<Failure>>>,
    /// The last answers were older than what is known: the next look asks everybody.
    doubt: AtomicBool,
    /// Held while the map changes; true when it must not any more.
    closed: Mutex<bool>,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<String>) -> Self {
        Self {
            seeds,
            map: ArcSwap::from_pointee(Map::default()),
            refresh: Notify::new(),
            failure: Mutex::new(None),
            doubt: AtomicBool::new(false),
            closed: Mutex::new(false),
        }
    }

    /// Asks for a look soon.
    pub(super) fn look_again(&self) {
        self.refresh.notify_one();
    }

    /// Whoever serves this place and is connected.
    pub(super) fn find(&self, place: Place) -> Option<Held> {
        let map = self.map.load();
        match place {
            Place::Slot(slot) => Held::of(&map.owner(slot)?.seat),
            _ => {
                let all: Vec<_> = map.members().collect();
                let start = fastrand::usize(..all.len().max(1));
                let (before, after) = all.split_at(start.min(all.len()));
                after
                    .iter()
                    .chain(before)
                    .find_map(|member| Held::of(&member.seat))
            }
        }
    }

    /// The master of that address, where it is one and connected.
    pub(super) fn find_node(&self, address: &str) -> Option<Held> {
        let map = self.map.load();
        let mut members = map.members();
        Held::of(&members.find(|member| member.address == address)?.seat)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.map.load().is_settled()
    }

    /// Why whoever serves this place is not connected.
    pub(super) fn why_not(&self, place: Place) -> Option<Arc<Failure>> {
        let map = self.map.load();
        let of_owner = match place {
            Place::Slot(slot) => map.owner(slot).and_then(|member| member.seat.failure()),
            _ => map.members().find_map(|member| member.seat.failure()),
        };
        of_owner.or_else(|| lock(&self.failure).clone())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.map.load().view.epoch()
    }

    pub(super) fn status(&self) -> Vec<NodeStatus> {
        let map = self.map.load();
        let nodes = map.view.nodes.iter().zip(&map.members);
        nodes
            .map(|(node, member)| NodeStatus {
                address: node.address.clone(),
                master: node.master,
                slots: node.slots,
                connected: member.as_ref().is_some_and(|m| m.seat.lease().is_some()),
                last_reason: member.as_ref().and_then(|m| m.seat.last_reason()),
                last_failure: member
                    .as_ref()
                    .and_then(|m| Some(m.seat.failure()?.chain())),
            })
            .collect()
    }

    /// Ends every member.
    pub(super) fn close(&self) {
        let mut closed = lock(&self.closed);
        *closed = true;
        self.map.store(Arc::default());
    }
}

/// Keeps the view fresh for as long as there is a handle.
pub(super) async fn run(shared: Arc<Shared>) {
    let Some(cluster) = &shared.cluster else {
        return;
    };
    let backoff = shared.config.backoff;
    let (mut attempt, mut dials) = (0_u32, 0_u32);
    let mut dial_at = Instant::now();
    loop {
        let dial = Instant::now() >= dial_at;
        match look(&shared, cluster, dial).await {
            Ok(answers) if answers.is_empty() => {}
            Ok(answers) => {
                *lock(&cluster.failure) = None;
                apply(&shared, cluster, &answers);
            }
            Err(failure) => {
                tracing::debug!(failure = failure.chain(), "no look at the redis cluster");
                *lock(&cluster.failure) = Some(Arc::new(failure));
            }
        }
        let pause = if cluster.is_settled() {
            (attempt, dials) = (0, 0);
            dial_at = Instant::now();
            shared.config.check_interval
        } else {
            if dial {
                dial_at = Instant::now() + backoff.delay(dials, fastrand::u64(..));
                dials = dials.saturating_add(1);
            }
            // A failover ends within moments and everybody waits for it: look often.
            attempt = (attempt + 1).min(3);
            backoff.delay(attempt, fastrand::u64(..))
        };
        sleep(AT_MOST_EVERY).await;
        let _ = timeout(pause, cluster.refresh.notified()).await;
    }
}

/// What the nodes say, of those that answer in time; nothing when there is nobody to ask. Everybody who waits asks for a look, so `dial` says
/// whether it is time to connect nodes only to ask them.
async fn look(shared: &Shared, cluster: &Cluster, dial: bool) -> Result<Vec<Vec<Node>>, Failure> {
    let map = cluster.map.load_full();
    let mut connected: Vec<Arc<Seat>> = map.members().map(|m| Arc::clone(&m.seat)).collect();
    connected.retain(|seat| seat.lease().is_some());
    fastrand::shuffle(&mut connected);
    if !cluster.doubt.load(Ordering::Relaxed) {
        connected.truncate(ASKED);
    }
    let mut others = Vec::new();
    if dial && (connected.is_empty() || !map.is_settled()) {
        others = strangers(&map, &cluster.seeds, &connected);
    }
    if connected.is_empty() && others.is_empty() {
        return Ok(Vec::new());
    }
    let asked = join_all(connected.iter().map(|seat| async {
        match seat.lease() {
            Some(lease) => ask(shared, &lease.master, async || Ok(lease.link.clone())).await,
            None => Ok(Vec::new()),
        }
    }));
    let dialled = join_all(others.iter().map(|address| {
        let login = &shared.config.login;
        ask(shared, address, async || {
            shared.config.dialer.link(address, login, 0).await
        })
    }));
    let (asked, dialled) = tokio::join!(asked, dialled);
    let mut answers = Vec::new();
    let mut failure = None;
    for answer in asked.into_iter().chain(dialled) {
        match answer {
            Ok(nodes) if nodes.is_empty() => {}
            Ok(nodes) => answers.push(nodes),
            Err(found) if found.needs_repair() => failure = Some(found),
            Err(found) => tracing::debug!(failure = found.chain(), "cluster node did not answer"),
        }
    }
    if answers.is_empty() {
        return Err(failure.unwrap_or_else(|| Failure::NoClusterNode {
            asked: cluster.seeds.join(", "),
        }));
    }
    Ok(answers)
}

/// Some of the nodes that are known and not connected.
fn strangers(map: &Map, seeds: &[String], connected: &[Arc<Seat>]) -> Vec<String> {
    let leased: Vec<String> = connected
        .iter()
        .filter_map(|seat| Some(seat.lease()?.master.clone()))
        .collect();
    let known = map.view.nodes.iter().map(|node| &node.address);
    let mut others: Vec<String> = Vec::new();
    for address in known.chain(seeds) {
        if !leased.contains(address) && !others.contains(address) {
            others.push(address.clone());
        }
    }
    fastrand::shuffle(&mut others);
    others.truncate(DIALLED);
    others
}

async fn ask<F: Future<Output = Result<Link, Failure>>>(
    shared: &Shared,
    address: &str,
    link: impl FnOnce() -> F,
) -> Result<Vec<Node>, Failure> {
    let mut link = link().await?;
    let mut command = ::redis::cmd("CLUSTER");
    let asking = command
        .arg("NODES")
        .query_async::<String>(&mut link.commands);
    let reply = shared.config.dialer.within(address, asking).await?;
    let text = reply.map_err(|error| {
        let disabled = error.to_string().contains("cluster support disabled");
        match refused(address, &shared.config.login, error) {
            Failure::Link { address, source } if disabled => {
                Failure::NotCluster { address, source }
            }
            other => other,
        }
    })?;
    let host = split_address(address, DEFAULT_PORT).map(|(host, _)| host);
    Ok(view::parse(&text, host.as_deref().unwrap_or_default()))
}

/// Takes in what was heard: members come and go, and one that has lost its slots is given up.
fn apply(shared: &Arc<Shared>, cluster: &Cluster, answers: &[Vec<Node>]) {
    let closed = lock(&cluster.closed);
    if *closed {
        return;
    }
    let old = cluster.map.load_full();
    let doubt = old.view.doubts(answers);
    cluster.doubt.store(doubt, Ordering::Relaxed);
    let view = old.view.merge(answers);
    if view == old.view {
        return;
    }
    let known = |address: &str| old.members().find(|member| member.address == address);
    let members: Vec<Option<Arc<Member>>> = view
        .nodes
        .iter()
        .map(|node| {
            node.master.then(|| match known(&node.address) {
                Some(member) => Arc::clone(member),
                None => Arc::new(join(shared, node.address.clone())),
            })
        })
        .collect();
    let had = |address: &str| {
        let mut before = old.view.nodes.iter();
        before.any(|node| node.address == address && node.slots > 0)
    };
    let mut switched = false;
    for (node, member) in view.nodes.iter().zip(&members) {
        if node.slots == 0 && had(&node.address) {
            switched = true;
            if let Some(member) = member {
                member.seat.vacate(Reason::ClusterDisagrees);
            }
        }
    }
    let gone = |node: &view::Known| {
        let mut now = view.nodes.iter();
        node.slots > 0 && !now.any(|known| known.address == node.address)
    };
    switched |= old.view.nodes.iter().any(gone);
    tracing::info!(
        epoch = view.epoch(),
        masters = members.iter().flatten().count(),
        switched,
        "redis cluster changed"
    );
    cluster.map.store(Arc::new(Map { view, members }));
    drop(closed);
    // Ends the members that are no longer named.
    drop(old);
    shared.changed(switched);
}

fn join(shared: &Arc<Shared>, address: String) -> Member {
    let seat = Arc::new(Seat::new());
    let finder = Finder::Node(address.clone());
    let task = tokio::spawn(supervisor::run(
        Arc::clone(shared),
        Arc::clone(&seat),
        finder,
    ));
    Member {
        address,
        seat,
        task: task.abort_handle(),
    }
}
