//! The way to a connection of one node, and to whichever node is the primary.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use deadpool::managed::{PoolError, Timeouts};
use futures_util::poll;
use ha_core::backoff::Backoff;
use tokio::time::{Instant, timeout, timeout_at};

use super::Error;
use super::causal::Causal;
use super::conn::Lease;
use super::deadline::after;
use super::error::ConnectError;
use super::members::Member;
use super::pool::{Object, Pool};
use super::role::NoPrimary;
use super::shared::{Core, Snapshot};
use super::stand::{STAND, Stand};

/// Between two attempts to connect to a primary that refuses, unless a probe finds out something before that.
pub(super) const AGAIN: Backoff =
    Backoff::new(Duration::from_millis(5), Duration::from_millis(100));

/// A connection to a node, and what was known when that was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) view: Arc<Snapshot>,
    pub(crate) index: usize,
    pub(crate) object: Object,
}

impl Chosen {
    pub(crate) fn lend(self, core: &Arc<Core>, causal: Option<&Causal>, write: bool) -> Lease {
        Lease::new(
            core,
            self.view.place(self.index),
            self.object,
            causal,
            write,
        )
    }
}

/// Counts somebody who waits for a primary; while there are any, probes ask more often.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Core);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Core {
    /// Begins to wait: everybody is asked at once, and often from then on.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.kick();
        Waiting(self)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A connection of one node of `view`, waiting at most `wait` for a free one. It is good for what `view` says of the node.
    pub(crate) async fn checkout(
        &self,
        view: &Snapshot,
        index: usize,
        wait: Duration,
    ) -> Result<Object, Error> {
        self.checkout_of(view, index, wait, false).await
    }

    async fn checkout_of(
        &self,
        view: &Snapshot,
        index: usize,
        wait: Duration,
        reserved: bool,
    ) -> Result<Object, Error> {
        let Some(member) = &view.members[index] else {
            return Err(Error::NotSent {
                node: String::new(),
                source: ConnectError::Closed,
            });
        };
        let pool = match view.primary {
            _ if reserved => &member.reserved,
            Ok(primary) if primary == index => {
                // What came back to the other pool since the role changed.
                member.hand_over(true);
                &member.pool
            }
            _ => &member.replica_pool,
        };
        member
            .checkout(pool, view.nodes[index].generation, wait)
            .await
    }

    /// Where the primary stands, unless `instead_of` is the primary.
    pub(crate) async fn ask_primary(&self, instead_of: Option<usize>) -> Option<Stand> {
        let view = self.view.load_full();
        let primary = view.primary.ok();
        let primary = primary.filter(|index| Some(*index) != instead_of)?;
        let object = self.checkout(&view, primary, Duration::ZERO).await.ok()?;
        let answer = object.client.simple_query(STAND).await.ok()?;
        Stand::read(&answer, None)
    }

    /// A connection of the primary of `view`. Nothing when it is not the primary any more, or `end` has come.
    pub(crate) async fn lend_by(
        &self,
        view: &Snapshot,
        index: usize,
        reserved: bool,
        end: Instant,
    ) -> Option<Result<Object, Error>> {
        let left = end.saturating_duration_since(Instant::now());
        let wait = self.settings.pool_wait.min(left);
        let mut lent = pin!(self.checkout_of(view, index, wait, reserved));
        // A free connection is there without a wait.
        if let Poll::Ready(lent) = poll!(&mut lent) {
            return Some(lent);
        }
        // Whoever waits for a connection of one that is not the primary any more waits in vain.
        let mut turns = self.turns();
        let replaced = turns.wait_for(|_| {
            let now = self.view.load();
            (now.primary, now.timeline) != (view.primary, view.timeline)
        });
        tokio::select! {
            biased;
            lent = timeout_at(end, lent) => lent.ok(),
            _ = replaced => None,
        }
    }

    /// A connection to the primary, a reserved one if `reserved`, and by what it was chosen. Waits until `write_wait` has passed.
    ///
    /// Nothing, if somebody's token was judged while `judged` was the newest timeline, and the primary is of another one: it has to be judged
    /// again, and meanwhile keeps nobody from a connection.
    pub(crate) async fn primary(
        &self,
        reserved: bool,
        needed_timeline: u32,
        judged: Option<u32>,
    ) -> Result<Option<Chosen>, Error> {
        let limit = self.settings.write_wait;
        let end = after(limit);
        let mut turns = self.turns();
        let mut waiting = None;
        let mut attempt = 0;
        let mut last: Option<Error> = None;
        loop {
            turns.mark_unchanged();
            let view = self.view.load_full();
            let mut pause = end;
            let reason = match view.primary {
                Ok(index) if view.timeline >= needed_timeline => {
                    if judged.is_some_and(|judged| judged != view.timeline) {
                        return Ok(None);
                    }
                    match self.lend_by(&view, index, reserved, end).await {
                        Some(Ok(object)) => {
                            return Ok(Some(Chosen {
                                view,
                                index,
                                object,
                            }));
                        }
                        Some(Err(full @ Error::Pool { .. })) => return Err(full),
                        Some(Err(error)) => {
                            last = Some(error);
                            pause = Instant::now() + AGAIN.delay(attempt, fastrand::u64(..));
                            attempt = attempt.saturating_add(1);
                        }
                        None if Instant::now() < end => continue,
                        None => {}
                    }
                    NoPrimary::NotFound
                }
                Ok(_) => NoPrimary::StaleForToken,
                Err(reason) => reason,
            };
            waiting.get_or_insert_with(|| self.wait());
            let _ = timeout_at(pause.min(end), turns.changed()).await;
            if Instant::now() >= end {
                return Err(last.unwrap_or(Error::NoPrimary {
                    waited: limit,
                    reason,
                }));
            }
        }
    }
}

impl Member {
    /// A connection from one of its pools, waiting at most `wait` for a free one, if the node is still of this generation.
    pub(super) async fn checkout(
        &self,
        pool: &Pool,
        generation: u64,
        wait: Duration,
    ) -> Result<Object, Error> {
        let node = || self.node.name.to_string();
        let free = Timeouts {
            wait: Some(Duration::ZERO),
            create: None,
            recycle: None,
        };
        let got = match pool.timeout_get(&free).await {
            Err(PoolError::Timeout(_)) if !wait.is_zero() => {
                match timeout(wait, pool.timeout_get(&Timeouts::default())).await {
                    Ok(got) => got,
                    Err(_) => return Err(Error::Pool { node: node() }),
                }
            }
            got => got,
        };
        let source = match got {
            // Whoever chose the node knew it in another life, or in another role.
            Ok(object) if object.generation != generation => ConnectError::Changed,
            Ok(object) => return Ok(object),
            Err(PoolError::Timeout(_)) => return Err(Error::Pool { node: node() }),
            Err(PoolError::Backend(source)) => {
                self.node.refusing.store(true, Ordering::Relaxed);
                self.node.kick.notify_one();
                source
            }
            Err(_) => ConnectError::Closed,
        };
        Err(Error::NotSent {
            node: node(),
            source,
        })
    }
}
