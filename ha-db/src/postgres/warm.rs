//! Connections to a new primary, made before they are asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::role::{NoPrimary, Role};
use super::router::Core;
use super::shared::Snapshot;

/// What is to be warmed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// There is a new primary.
    New,
    /// There is none any more: one of the replicas will be, and the connections to it will be those to the primary.
    Lost,
}

/// The causes one after the other, each once.
#[derive(Debug, Default)]
struct Causes {
    epoch: u64,
    lost: bool,
}

impl Causes {
    fn next(&mut self, epoch: u64, primary: Result<usize, NoPrimary>) -> Option<Cause> {
        match primary {
            Ok(_) => {
                self.lost = false;
                let new = epoch != self.epoch;
                self.epoch = epoch;
                new.then_some(Cause::New)
            }
            Err(_) if epoch == 0 || self.lost => None,
            Err(_) => {
                self.lost = true;
                Some(Cause::Lost)
            }
        }
    }
}

/// Opens connections to the new primary, and to those of whom one will be, to each one after the other: everybody who has lost the
/// old primary comes at once, and a server that has just been promoted must not be met by all of them at the same time.
pub(crate) async fn run(core: Arc<Core>) {
    let mut turns = core.turns();
    let mut causes = Causes::default();
    loop {
        turns.mark_unchanged();
        let view = core.view.load_full();
        if let Some(cause) = causes.next(view.epoch, view.primary) {
            let all = (0..view.nodes.len()).filter(|index| match cause {
                Cause::New => view.primary == Ok(*index),
                Cause::Lost => {
                    let node = &view.nodes[*index];
                    node.role == Role::Replica && node.timeline == Some(view.timeline)
                }
            });
            let interval = core.settings.probe_interval;
            let spread = match cause {
                Cause::New => interval,
                // A promotion may take less than an interval, and no server begins its life with this.
                Cause::Lost => interval / 4,
            };
            let warming = all.map(|index| warm_up(&core, &view, index, cause, spread));
            let warming = join_all(warming);
            let other = turns.wait_for(|_| core.view.load().primary != view.primary);
            tokio::select! {
                _ = warming => {}
                _ = other => continue,
            }
        }
        if turns.changed().await.is_err() {
            return;
        }
    }
}

async fn warm_up(core: &Core, view: &Snapshot, index: usize, cause: Cause, spread: Duration) {
    // Many routers learn of it within one probe's time; they spread over another.
    let spread = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..=spread))).await;
    let enough = || match (core.settings.warm, cause) {
        (0, _) => 0,
        (warm, Cause::New) => warm,
        // Whoever waits wants one of the new primary.
        (warm, Cause::Lost) => warm.max(core.waiting.load(Ordering::Relaxed)),
    };
    let mut held = Vec::new();
    while held.len() < enough() {
        match core.checkout(view, index, Duration::ZERO).await {
            Ok(object) => held.push(object),
            // It is in use already, or the node has changed again.
            Err(_) => break,
        }
    }
    tracing::debug!(
        node = view.node(index).map(|node| &*node.name),
        connections = held.len(),
        "warmed up"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_primary_is_warmed_up_once_and_who_may_follow_it_once_for_each_loss() {
        let mut causes = Causes::default();
        let lost = Err(NoPrimary::NotFound);
        assert_eq!(causes.next(0, Err(NoPrimary::NothingKnown)), None);
        assert_eq!(causes.next(1, Ok(0)), Some(Cause::New));
        assert_eq!(causes.next(1, Ok(0)), None);
        assert_eq!(causes.next(1, lost), Some(Cause::Lost));
        assert_eq!(causes.next(1, lost), None);
        // It was only silent.
        assert_eq!(causes.next(1, Ok(0)), None);
        assert_eq!(causes.next(1, lost), Some(Cause::Lost));
        assert_eq!(causes.next(2, Ok(1)), Some(Cause::New));
    }
}
