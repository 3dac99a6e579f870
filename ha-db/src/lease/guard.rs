use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use ha_core::lease::{Config, Due, Fence, Hold, Loss, Owner};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Error;
use super::store::{Request, Store};
use crate::postgres::Transaction;

/// Until when it is held, or why it is not.
type State = Result<Instant, Loss>;

/// A lease that is held. It is renewed in the background, and given back when this is dropped: end the work first.
#[derive(Debug)]
pub struct Guard {
    store: Arc<Store>,
    config: Config,
    owner: Owner,
    fence: Fence,
    state: watch::Sender<State>,
    renewing: AbortHandle,
    given_back: bool,
}

impl Guard {
    pub(super) fn start(store: Arc<Store>, config: Config, hold: Hold) -> Self {
        let state = watch::Sender::new(Ok(hold.until()));
        let (owner, fence) = (hold.owner(), hold.fence());
        tracing::info!(lease = store.name, %fence, "lease granted");
        let task = renew(Arc::clone(&store), config, hold, state.clone());
        let renewing = store.router.core.runtime.spawn(task).abort_handle();
        Self {
            store,
            config,
            owner,
            fence,
            state,
            renewing,
            given_back: false,
        }
    }

    /// The fencing token of this grant. Pass it along with everything that is done under the lease; who receives it refuses a
    /// lower one than it has seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Whether it is held at this moment, by the clock and without asking anybody. Ask before each step.
    ///
    /// # Errors
    /// [`Loss`]: it is not, and will not be again. Nobody else has it yet when this first says so.
    pub fn check(&self) -> Result<Fence, Loss> {
        loop {
            let until = (*self.state.borrow())?;
            if Instant::now() < until {
                return Ok(self.fence);
            }
            lose_at(&self.state, until);
        }
    }

    /// Waits until it is lost.
    ///
    /// # Cancel safety
    /// It has no effect but to wait.
    pub async fn lost(&self) -> Loss {
        let mut changes = self.state.subscribe();
        loop {
            let until = match *changes.borrow_and_update() {
                Ok(until) => until,
                Err(loss) => return loss,
            };
            // By the clock, so that it ends in time even if the renewal does not come to its turn.
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Loss::Expired;
                    }
                }
                () = tokio::time::sleep_until(until.into()) => {
                    if Instant::now() >= until {
                        lose_at(&self.state, until);
                    }
                }
            }
        }
    }

    /// Runs `work` as long as the lease is held; it is dropped as soon as it is lost, a margin before anybody else may have it.
    /// Work that blocks its thread is not stopped by this.
    ///
    /// # Errors
    /// [`Loss`] when it was lost before the work was done.
    ///
    /// # Cancel safety
    /// As `work`.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Loss> {
        self.check()?;
        tokio::select! {
            // In this order: work that is ready at the same time came too late.
            biased;
            loss = self.lost() => Err(loss),
            done = work => Ok(done),
        }
    }

    /// Makes `transaction` commit only if the lease is still held: until it ends, nobody can take the lease. Call it last before the
    /// commit, as renewals wait for it too. It must be a transaction of the database that holds the leases, and read committed, as is the
    /// default: in one that keeps its snapshot (`REPEATABLE READ` or above) it fails with 40001 after every renewal since that snapshot, and a
    /// snapshot from before the grant costs the lease.
    ///
    /// # Errors
    /// [`Error::Lost`]: roll back; the lease stays lost. [`Error::Database`].
    ///
    /// # Cancel safety
    /// The transaction is to be rolled back then.
    pub async fn confirm(&self, transaction: &Transaction) -> Result<(), Error> {
        self.check()?;
        if self
            .store
            .confirm(transaction, self.owner, self.fence)
            .await?
        {
            Ok(())
        } else {
            self.renewing.abort();
            Err(lose(&self.state, Loss::Taken).into())
        }
    }

    /// Gives it back, so that the next one gets it at its next look instead of after its whole time.
    ///
    /// # Errors
    /// [`Error::Database`] when the server could not be told: the lease is then free after its time.
    ///
    /// # Cancel safety
    /// It is not held any more. Whether the server knows is another matter.
    pub async fn release(mut self) -> Result<(), Error> {
        self.given_back = true;
        self.end();
        give_back(&self.store, self.config, self.owner, self.fence).await
    }

    fn end(&self) {
        self.renewing.abort();
        lose(&self.state, Loss::Released);
    }
}

/// Ends it for this reason, unless it has ended; and tells why it has.
fn lose(state: &watch::Sender<State>, loss: Loss) -> Loss {
    let mut why = loss;
    state.send_if_modified(|state| match *state {
        Ok(_) => {
            *state = Err(loss);
            true
        }
        Err(before) => {
            why = before;
            false
        }
    });
    why
}

/// The time that ends at `until` is over. Whoever has seen that has seen the end: a renewal that is told of later comes too late.
fn lose_at(state: &watch::Sender<State>, until: Instant) {
    state.send_if_modified(|state| {
        let over = *state == Ok(until);
        if over {
            *state = Err(Loss::Expired);
        }
        over
    });
}

/// Takes a renewal in, if it has not ended: what is lost stays lost.
fn extend(state: &watch::Sender<State>, to: Instant) -> Result<(), Loss> {
    let mut outcome = Ok(());
    state.send_if_modified(|state| {
        let held = match *state {
            Ok(until) if Instant::now() < until => Ok(to),
            Ok(_) => Err(Loss::Expired),
            Err(loss) => Err(loss),
        };
        outcome = held.map(drop);
        std::mem::replace(state, held) != held
    });
    outcome
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        self.end();
        let store = Arc::clone(&self.store);
        let (config, owner, fence) = (self.config, self.owner, self.fence);
        let runtime = self.store.router.core.runtime.clone();
        runtime.spawn(async move {
            if let Err(error) = give_back(&store, config, owner, fence).await {
                tracing::debug!(
                    lease = store.name,
                    error = &error as &dyn std::error::Error,
                    "not given back"
                );
            }
        });
    }
}

async fn give_back(store: &Store, config: Config, owner: Owner, fence: Fence) -> Result<(), Error> {
    let limit = config.answer_within;
    match timeout(limit, store.ask(owner, Request::Release(fence))).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Error::Database(crate::postgres::Error::Timeout {
            what: "giving back a lease",
            limit,
        })),
    }
}

async fn renew(store: Arc<Store>, config: Config, mut hold: Hold, state: watch::Sender<State>) {
    let fence = hold.fence();
    let loss = loop {
        match hold.next(Instant::now()) {
            Due::Lost(loss) => break loss,
            Due::Wait(until) => tokio::time::sleep_until(until.into()).await,
            Due::Renew => {
                let sent = Instant::now();
                let limit = config
                    .answer_within
                    .min(hold.until().saturating_duration_since(sent));
                match timeout(limit, store.ask(hold.owner(), Request::Renew(fence))).await {
                    Ok(Ok(answer)) => {
                        let held = hold.answered(answer, sent, Instant::now());
                        if let Err(loss) = held.and_then(|()| extend(&state, hold.until())) {
                            break loss;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(lease = store.name, %fence, error = &error as &dyn std::error::Error, "not renewed");
                        hold.failed(Instant::now());
                    }
                    Err(_) => {
                        tracing::debug!(lease = store.name, %fence, "not renewed in time");
                        hold.failed(Instant::now());
                    }
                }
            }
        }
    };
    let loss = lose(&state, loss);
    tracing::warn!(lease = store.name, %fence, %loss, "lease lost");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_lost_stays_lost_whatever_a_renewal_says_later() {
        let now = Instant::now();
        let (past, later) = (now, now + Duration::from_secs(600));
        for loss in [Loss::Taken, Loss::Released, Loss::Expired] {
            let state = watch::Sender::new(Ok(later));
            assert_eq!(lose(&state, loss), loss);
            assert_eq!(extend(&state, later), Err(loss));
            assert_eq!(lose(&state, Loss::Taken), loss, "the first reason stays");
            assert_eq!(*state.borrow(), Err(loss));
            // The control: a renewal that is written down as it comes.
            let _ = state.send_replace(Ok(later));
            assert!(state.borrow().is_ok());
        }
        // Somebody has looked at the clock between the answer and its being written down.
        let state = watch::Sender::new(Ok(past));
        lose_at(&state, past);
        assert_eq!(extend(&state, later), Err(Loss::Expired));
        // Nobody has looked, and it is over all the same.
        let state = watch::Sender::new(Ok(past));
        assert_eq!(extend(&state, later), Err(Loss::Expired));
        // Renewed before its time is over, it is not lost by who looked at the old time.
        let soon = now + Duration::from_secs(300);
        let state = watch::Sender::new(Ok(soon));
        assert_eq!(extend(&state, later), Ok(()));
        lose_at(&state, soon);
        assert_eq!(*state.borrow(), Ok(later));
    }
}
