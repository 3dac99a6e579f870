//! One Sentinel: questions and announcements.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::RedisResult;
use ::redis::aio::PubSub;

use super::config::Config;
use super::dial::{Link, refused};
use super::error::Failure;
use super::follow::{self, Answer};
use super::seat::lock;
use super::status::SentinelStatus;

/// What it answers to both questions.
type Replies = (RedisResult<Vec<String>>, RedisResult<Option<(String, u16)>>);

/// A Sentinel that was configured.
pub(super) struct Sentinel {
    address: String,
    link: Mutex<Option<Link>>,
    named: Mutex<Option<String>>,
    pub(super) subscribed: AtomicBool,
}

impl Sentinel {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            link: Mutex::new(None),
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

    /// Asks for the master. Only the supervisor asks.
    pub(super) async fn ask(&self, name: &str, config: &Config) -> Result<Answer, Failure> {
        let answer = self.ask_over_link(name, config).await;
        *lock(&self.named) = answer.as_ref().ok().map(|answer| answer.master.clone());
        answer
    }

    async fn ask_over_link(&self, name: &str, config: &Config) -> Result<Answer, Failure> {
        let login = &config.sentinel_login;
        // Taken out: after a question without an answer the link may be dead for good, and is not put back.
        let taken = lock(&self.link).take();
        let mut link = match taken {
            Some(link) => link,
            None => config.dialer.link(&self.address, login, 0).await?,
        };
        // In this order: whom the second names is at least as new as what the first says.
        let mut questions = ::redis::pipe();
        questions.ignore_errors();
        for question in ["MASTER", "GET-MASTER-ADDR-BY-NAME"] {
            questions.cmd("SENTINEL").arg(question).arg(name);
        }
        let asking = questions.query_async::<Replies>(&mut link.commands);
        let replies = config.dialer.within(&self.address, asking).await?;
        let unknown = || Failure::UnknownMaster {
            name: name.to_owned(),
            sentinel: self.address.clone(),
        };
        let (fields, by_name) = replies.map_err(|error| refused(&self.address, login, error))?;
        let fields = match fields {
            Ok(fields) => fields,
            // ERR No such master with that name
            Err(error) if error.to_string().contains("No such master") => return Err(unknown()),
            Err(error) => return Err(refused(&self.address, login, error)),
        };
        *lock(&self.link) = Some(link);
        // A user who may not ask the second question does without.
        follow::parse_master(&fields, by_name.ok().flatten()).ok_or_else(unknown)
    }

    /// Subscribes to the announcements about masters.
    pub(super) async fn subscribe(&self, config: &Config) -> Result<PubSub, Failure> {
        let login = &config.sentinel_login;
        let mut channel = config.dialer.announcements(&self.address, login).await?;
        let subscribing = channel.subscribe(&["+switch-master", "+try-failover"]);
        let subscribed = config.dialer.within(&self.address, subscribing).await?;
        subscribed.map_err(|error| refused(&self.address, login, error))?;
        Ok(channel)
    }
}
