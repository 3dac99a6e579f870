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
        let until = (*self.state.borrow())?;
        if Instant::now() < until {
            Ok(self.fence)
        } else {
            Err(Loss::Expired)
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
                    if Instant::now() >= until && *changes.borrow() == Ok(until) {
                        return Loss::Expired;
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
    /// commit, as renewals wait for it too. It must be a transaction of the database that holds the leases.
    ///
    /// # Errors
    /// [`Error::Lost`]: roll back. [`Error::Database`].
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
            let loss = Loss::Taken;
            let _ = self.state.send_replace(Err(loss));
            Err(loss.into())
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
        self.state.send_if_modified(|state| {
            let held = state.is_ok();
            if held {
                *state = Err(Loss::Released);
            }
            held
        });
    }
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
                    Ok(Ok(answer)) => match hold.answered(answer, sent, Instant::now()) {
                        Ok(()) => {
                            let _ = state.send_replace(Ok(hold.until()));
                        }
                        Err(loss) => break loss,
                    },
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
    tracing::warn!(lease = store.name, %fence, %loss, "lease lost");
    let _ = state.send_replace(Err(loss));
}
