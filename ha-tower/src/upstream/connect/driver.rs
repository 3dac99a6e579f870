use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;

/// What looks after a connection while it is driven.
pub(super) trait Keeper<C> {
    /// The connection has made what progress it could.
    fn progressed(&mut self, connection: &C);

    /// The time of the last look has come: closes what is idle or old by dropping the pool's sender, and says when to
    /// look again: never, when the pool has let go of it.
    fn look(&mut self, now: Instant) -> Option<Instant>;

    /// The connection takes no more requests.
    fn ended(&mut self);
}

pin_project_lite::pin_project! {
    /// The task of one connection. It ends by itself soon after the last sender and the last body of the connection
    /// are gone, and those are owned by the pool and by requests.
    pub(super) struct Driver<C, K> {
        #[pin]
        connection: C,
        keeper: K,
        #[pin]
        timer: Sleep,
    }
}

impl<C, K> Driver<C, K> {
    pub(super) fn new(connection: C, keeper: K, first_look: Duration) -> Self {
        Self {
            connection,
            keeper,
            timer: tokio::time::sleep(first_look),
        }
    }
}

impl<C, K> Future for Driver<C, K>
where
    C: Future<Output = hyper::Result<()>>,
    K: Keeper<C>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Two looks are never closer than this, whatever the keeper says.
        const PAUSE: Duration = Duration::from_millis(1);
        const NEVER: Duration = Duration::from_secs(86_400);
        let mut this = self.project();
        if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
            if let Err(error) = result {
                crate::trace::debug!(error = &error as &dyn std::error::Error, "connection ended");
            }
            this.keeper.ended();
            return Poll::Ready(());
        }
        this.keeper.progressed(&this.connection);
        while this.timer.as_mut().poll(cx).is_ready() {
            let now = clock::now();
            let next = this.keeper.look(now).unwrap_or(now + NEVER);
            let next = next.max(now + PAUSE);
            this.timer.as_mut().reset(next.into());
        }
        Poll::Pending
    }
}
