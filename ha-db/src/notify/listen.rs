//! The background task: a connection of its own to whichever node is the primary.

use std::sync::Arc;
use std::time::Duration;

use ha_core::backoff::Backoff;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::outbox::{Event, Missed, Outbox};
use crate::postgres::{ConnectError, Router};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// A connection that listens. Dropped, it closes its socket at once.
struct Listening {
    client: Client,
    driver: JoinHandle<()>,
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
    let mut missed = Missed::Started;
    let mut attempt = 0_u32;
    loop {
        let view = router.core.view.load_full();
        let connected = match view.primary {
            Ok(index) => listen(router, index, channels, outbox)
                .await
                .map(|it| (index, it)),
            Err(_) => Err(ConnectError::Changed),
        };
        let begun = Instant::now();
        match connected {
            Ok((index, mut listening)) => {
                outbox.push(Event::MayHaveMissed(missed));
                missed = Missed::Reconnected;
                serve(router, index, view.epoch, &mut listening, check_interval).await;
                drop(listening);
                outbox.push(Event::Interrupted);
                router.core.kick();
                if begun.elapsed() > BACKOFF.ceiling(u32::MAX) {
                    attempt = 0;
                }
            }
            Err(error) => {
                tracing::debug!(%error, attempt, "cannot listen for notifications yet");
            }
        }
        // Cut short by another primary, and not by each probe that finds the same one.
        let pause = BACKOFF.delay(attempt, fastrand::u64(..));
        attempt = attempt.saturating_add(1);
        let mut changes = router.core.subscribe();
        let other = changes.wait_for(|_| {
            let now = router.core.view.load();
            now.primary.is_ok() && (now.primary != view.primary || now.epoch != view.epoch)
        });
        let _ = timeout(pause, other).await;
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
    let listening = Listening {
        client,
        driver: tokio::spawn(driver),
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
    listening: &mut Listening,
    check_interval: Duration,
) {
    let core = &router.core;
    let mut changes = core.subscribe();
    loop {
        let moved = changes.wait_for(|_| {
            let view = core.view.load();
            // Without a primary nobody else can be listened to, and this one may come back.
            view.primary.is_ok() && (view.epoch != epoch || view.primary != Ok(index))
        });
        tokio::select! {
            _ = moved => return,
            _ = &mut listening.driver => return,
            () = sleep(check_interval) => {}
        }
        let asking = listening.client.simple_query(IS_STANDBY);
        match timeout(core.settings.probe_timeout, asking).await {
            Ok(Ok(answer)) if !is_standby(&answer) => {}
            _ => return,
        }
    }
}

/// A standby takes part in no notification.
const IS_STANDBY: &str = "SELECT pg_is_in_recovery()";

fn is_standby(answer: &[SimpleQueryMessage]) -> bool {
    answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) != Some("f")))
}
