//! The background task: a connection of its own to whichever node is the primary.

use std::sync::Arc;
use std::time::Duration;

use ha_core::backoff::Backoff;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client};

use super::outbox::{Event, Missed, Outbox};
use crate::postgres::{ConnectError, Router};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// A connection that listens. Dropped, it closes its socket at once.
struct Listening {
    client: Client,
    driver: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) async fn run(
    router: Router,
    channels: Vec<String>,
    outbox: Outbox,
    check_interval: Duration,
) {
    let outbox = Arc::new(outbox);
    let listening = follow(&router, &channels, &outbox, check_interval);
    // Ends with the reader.
    tokio::select! {
        () = listening => {}
        () = outbox.report() => {}
    }
}

async fn follow(
    router: &Router,
    channels: &[String],
    outbox: &Arc<Outbox>,
    check_interval: Duration,
) {
    let mut changes = router.core.subscribe();
    let mut missed = Missed::Started;
    let mut attempt = 0_u32;
    loop {
        changes.mark_unchanged();
        let view = router.core.view.load_full();
        let connected = match view.primary {
            Ok(index) => listen(router, index, channels, outbox)
                .await
                .map(|it| (index, it)),
            Err(_) => Err(ConnectError::Changed),
        };
        match connected {
            Ok((index, listening)) => {
                attempt = 0;
                outbox.push(Event::MayHaveMissed(missed));
                missed = Missed::Reconnected;
                serve(router, index, view.epoch, &listening, check_interval).await;
                drop(listening);
                outbox.push(Event::Interrupted);
                router.core.kick();
            }
            Err(error) => {
                tracing::debug!(%error, attempt, "cannot listen for notifications yet");
                let pause = BACKOFF.delay(attempt, fastrand::u64(..));
                attempt = attempt.saturating_add(1);
                let _ = timeout(pause, changes.changed()).await;
            }
        }
    }
}

/// Connects and listens, each step within the router's deadline.
async fn listen(
    router: &Router,
    index: usize,
    channels: &[String],
    outbox: &Arc<Outbox>,
) -> Result<Listening, ConnectError> {
    let view = router.core.view.load_full();
    let node = view.node(index).ok_or(ConnectError::Changed)?;
    let limit = node.connect_timeout;
    let late = |_| ConnectError::Timeout { limit };
    let heard = Arc::clone(outbox);
    let opening = node.open(move |message| {
        if let AsyncMessage::Notification(note) = message {
            heard.push(Event::Notification {
                channel: note.channel().to_owned(),
                payload: note.payload().to_owned(),
            });
        }
    });
    let (client, driver) = timeout(limit, opening).await.map_err(late)??;
    let driver = tokio::spawn(driver);
    let listening = Listening {
        client,
        driver: driver.abort_handle(),
    };
    let quoted = |name: &String| format!("LISTEN \"{}\";", name.replace('"', "\"\""));
    let all: String = channels.iter().map(quoted).collect();
    // A standby refuses it.
    timeout(limit, listening.client.batch_execute(&all))
        .await
        .map_err(late)??;
    Ok(listening)
}

/// Returns when the connection is of no use any more: closed, silent, or of a node that is not the primary.
async fn serve(
    router: &Router,
    index: usize,
    epoch: u64,
    listening: &Listening,
    check_interval: Duration,
) {
    let core = &router.core;
    let mut changes = core.subscribe();
    loop {
        let moved = changes.wait_for(|_| {
            let view = core.view.load();
            // Without a primary nobody else can be listened to, and this one may come back.
            listening.client.is_closed()
                || view.epoch != epoch && view.primary.is_ok()
                || view.primary.is_ok_and(|primary| primary != index)
        });
        if let Ok(_moved) = timeout(check_interval, moved).await {
            return;
        }
        let asking = listening.client.simple_query("SELECT pg_is_in_recovery()");
        match timeout(core.settings.probe_timeout, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
