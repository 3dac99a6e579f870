//! What the handles and the background tasks share, and how a command finds the node to go to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::cluster::Cluster;
use super::cluster::keys::Place;
use super::config::{Config, Servers};
use super::error::{Error, Failure, NotSent};
use super::follow::{Outcome, Reason};
use super::seat::{Held, Lease, Seat};
use super::sentinel::Sentinel;
use super::status::Status;

/// What the handles and the background tasks share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) sentinels: Vec<Sentinel>,
    /// The one master; unused in a cluster.
    pub(super) main: Arc<Seat>,
    pub(super) cluster: Option<Cluster>,
    /// Counts leases and views, for those who wait for one.
    published: watch::Sender<u64>,
    waiting: AtomicUsize,
    in_flight: AtomicUsize,
    connects: AtomicU64,
    switches: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let (sentinels, cluster) = match &config.servers {
            Servers::Single(_) => (Vec::new(), None),
            Servers::Sentinel { sentinels, .. } => {
                let all = sentinels
                    .iter()
                    .map(|address| Sentinel::new(address.clone()));
                (all.collect(), None)
            }
            Servers::Cluster(seeds) => (Vec::new(), Some(Cluster::new(seeds.clone()))),
        };
        Self {
            config,
            sentinels,
            main: Arc::new(Seat::new()),
            cluster,
            published: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            connects: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    /// Makes a lease the one to use at its seat.
    pub(super) fn publish(&self, seat: &Seat, lease: Lease, switched: bool) {
        seat.publish(lease);
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.changed(switched);
    }

    /// Lets those who wait look again.
    pub(super) fn changed(&self, switched: bool) {
        if switched {
            self.switches.fetch_add(1, Ordering::Relaxed);
        }
        self.published.send_modify(|count| *count += 1);
    }

    pub(super) fn give_up(&self, held: &Held, reason: Reason) {
        if held.seat.give_up(&held.lease, reason) {
            self.look_again();
        }
    }

    /// Takes in what a command that was sent at `sent` came to.
    pub(super) fn observe(&self, held: &Held, outcome: &Outcome, sent: Instant) {
        let lost = held.seat.observe(&held.lease, outcome, sent, &self.config);
        if lost || *outcome != Outcome::Answered {
            self.look_again();
        }
    }

    /// A sign that the view may be old.
    pub(super) fn look_again(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.look_again();
        }
    }

    fn find(&self, place: Place) -> Option<Held> {
        match &self.cluster {
            Some(cluster) => cluster.find(place),
            None => Held::of(&self.main),
        }
    }

    fn why_not(&self, place: Place) -> Option<Arc<Failure>> {
        match &self.cluster {
            Some(cluster) => cluster.why_not(place),
            None => self.main.failure(),
        }
    }

    pub(super) fn refuse(
        &self,
        why: NotSent,
        start: Instant,
        cause: Option<Arc<Failure>>,
    ) -> Error {
        self.not_sent.fetch_add(1, Ordering::Relaxed);
        Error::NotSent {
            why,
            waited: start.elapsed(),
            cause,
        }
    }

    pub(super) fn count_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// One of the places among the commands under way.
    pub(super) fn enter(&self, start: Instant) -> Result<Taken<'_>, Error> {
        let limit = self.config.max_in_flight;
        Taken::take(&self.in_flight, limit)
            .ok_or_else(|| self.refuse(NotSent::Full { limit }, start, None))
    }

    /// Whoever serves this place, or will before the deadline.
    pub(super) async fn wait(
        &self,
        place: Place,
        start: Instant,
        deadline: Instant,
    ) -> Result<Held, Error> {
        if let Some(held) = self.find(place) {
            return Ok(held);
        }
        self.wait_for(start, deadline, || self.find(place), || self.why_not(place))
            .await
    }

    /// Waits until everything that can be asked for is connected.
    pub(super) async fn wait_ready(&self, start: Instant, deadline: Instant) -> Result<(), Error> {
        match &self.cluster {
            None => self.wait(Place::Anywhere, start, deadline).await.map(drop),
            Some(cluster) => {
                let settled = || cluster.is_settled().then_some(());
                let why_not = || cluster.why_not(Place::Anywhere);
                self.wait_for(start, deadline, settled, why_not).await
            }
        }
    }

    /// One of the places among the commands that wait.
    fn queue(
        &self,
        start: Instant,
        why_not: impl Fn() -> Option<Arc<Failure>>,
    ) -> Result<Taken<'_>, Error> {
        let limit = self.config.max_waiting;
        Taken::take(&self.waiting, limit)
            .ok_or_else(|| self.refuse(NotSent::Overloaded { limit }, start, why_not()))
    }

    async fn wait_for<T>(
        &self,
        start: Instant,
        deadline: Instant,
        find: impl Fn() -> Option<T>,
        why_not: impl Fn() -> Option<Arc<Failure>>,
    ) -> Result<T, Error> {
        let _place = self.queue(start, &why_not)?;
        let mut published = self.published.subscribe();
        self.look_again();
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            match timeout_at(deadline, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(self.refuse(NotSent::NoMaster, start, why_not()));
                }
            }
        }
    }

    /// Waits until something has changed, or this instant. Of those who do so there are no more than may wait for a master.
    pub(super) async fn change_or(&self, until: Instant, start: Instant) -> Result<(), Error> {
        let _place = self.queue(start, || None)?;
        let mut published = self.published.subscribe();
        let _ = timeout_at(until, published.changed()).await;
        Ok(())
    }

    pub(super) fn status(&self) -> Status {
        let lease = self.main.lease();
        let epoch = match &self.cluster {
            Some(cluster) => cluster.epoch(),
            None => lease.as_ref().map_or(0, |lease| lease.epoch),
        };
        let failure = match &self.cluster {
            Some(cluster) if cluster.is_settled() => None,
            Some(cluster) => cluster.why_not(Place::Anywhere),
            None => self.main.failure(),
        };
        Status {
            master: lease.map(|lease| lease.master.clone()),
            epoch,
            connects: self.connects.load(Ordering::Relaxed),
            switches: self.switches.load(Ordering::Relaxed),
            last_reason: self.main.last_reason(),
            last_failure: failure.map(|failure| failure.chain()),
            waiting: self.waiting.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            not_sent: self.not_sent.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            sentinels: self.sentinels.iter().map(Sentinel::status).collect(),
            nodes: self
                .cluster
                .as_ref()
                .map(Cluster::status)
                .unwrap_or_default(),
        }
    }
}

/// One of a bounded number of places.
pub(super) struct Taken<'a>(&'a AtomicUsize);

impl<'a> Taken<'a> {
    fn take(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
