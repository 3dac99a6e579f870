//! Connections to a new primary, made before they are asked for.

use std::sync::Arc;
use std::time::Duration;

use super::router::Core;

/// Waits for each change of the primary and opens connections to the new one, one after the other: everybody who has lost the
/// old primary comes at once, and a server that has just been promoted must not be met by all of them at the same time.
pub(crate) async fn run(core: Arc<Core>) {
    let mut changes = core.subscribe();
    let mut warmed = 0;
    loop {
        let view = core.view.load_full();
        if view.epoch != warmed
            && let Ok(index) = view.primary
        {
            warmed = view.epoch;
            // Many routers learn of it within one probe's time; they spread over another.
            let spread =
                u64::try_from(core.settings.probe_interval.as_micros()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..=spread))).await;
            let mut held = Vec::new();
            while held.len() < core.settings.warm {
                match core.checkout(&view, index, Duration::ZERO).await {
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
        if changes.changed().await.is_err() {
            return;
        }
    }
}
