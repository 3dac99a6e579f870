//! One Sentinel: questions and announcements.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::{AsyncConnectionConfig, RedisError};
use tokio::time::timeout;

use super::config::{Login, client};
use super::connection::lock;
use super::follow::{self, Answer};
use super::status::SentinelStatus;

/// A Sentinel that was configured.
pub(super) struct Sentinel {
    address: String,
    link: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    named: Mutex<Option<String>>,
    pub(super) subscribed: AtomicBool,
}

impl Sentinel {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            link: tokio::sync::Mutex::new(None),
            named: Mutex::new(None),
            subscribed: AtomicBool::new(false),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn status(&self) -> SentinelStatus {
        SentinelStatus {
            address: self.address.clone(),
            subscribed: self.subscribed.load(Ordering::Relaxed),
            master: lock(&self.named).clone(),
        }
    }

    /// Asks for the master; `None` when there is no answer in time. Only the supervisor asks.
    pub(super) async fn ask(&self, name: &str, login: &Login, limit: Duration) -> Option<Answer> {
        let asked = timeout(limit, self.ask_unbounded(name, login, limit)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(sentinel = %self.address, %error, "sentinel did not answer");
                None
            }
            Err(_) => {
                // A link that did not answer once may be dead for good.
                if let Ok(mut link) = self.link.try_lock() {
                    *link = None;
                }
                None
            }
        };
        *lock(&self.named) = answer.as_ref().map(|answer| answer.master.clone());
        answer
    }

    async fn ask_unbounded(
        &self,
        name: &str,
        login: &Login,
        limit: Duration,
    ) -> Result<Option<Answer>, RedisError> {
        let mut slot = self.link.lock().await;
        let mut link = match slot.take() {
            Some(link) => link,
            None => {
                let settings = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(limit))
                    .set_response_timeout(Some(limit));
                client(&self.address, login, 0)?
                    .get_multiplexed_async_connection_with_config(&settings)
                    .await?
            }
        };
        let fields: Vec<String> = ::redis::cmd("SENTINEL")
            .arg("MASTER")
            .arg(name)
            .query_async(&mut link)
            .await?;
        *slot = Some(link);
        Ok(follow::parse_master(&fields))
    }

    /// Subscribes to the announcements about masters.
    pub(super) async fn subscribe(
        &self,
        login: &Login,
        limit: Duration,
    ) -> Result<PubSub, RedisError> {
        let subscribing = async {
            let mut channel = client(&self.address, login, 0)?.get_async_pubsub().await?;
            channel
                .subscribe(&["+switch-master", "+try-failover"])
                .await?;
            Ok(channel)
        };
        match timeout(limit, subscribing).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}
