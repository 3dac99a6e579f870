//! HTTP/1.1: a connection carries one request at a time, and the one used last is used next, so that the others can go idle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use ha_core::endpoint::Address;
use http::header::{HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};
use hyper::client::conn::http1::{Builder, SendRequest};
use tokio::sync::OwnedSemaphorePermit;

use super::super::attempt::RequestBody;
use super::client::{Base, Failure, Progress, Received, Unanswered};
use super::driver::{Driver, Keeper};
use super::io::{Io, Wrote};
use super::limits::Counts;
use crate::clock;

/// The HTTP/1.1 connections to one endpoint.
#[derive(Debug)]
pub(in super::super) struct Pool {
    base: Base,
    host: Option<HeaderValue>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    exchange: Exchange,
    since: Instant,
}

/// A connection and the right to send on it.
#[derive(Debug)]
struct Exchange {
    sender: SendRequest<RequestBody>,
    link: Arc<Link>,
    reused: bool,
}

/// What one connection's socket, its task and the pool share.
#[derive(Debug)]
struct Link {
    wrote: Wrote,
    expiry: Option<Instant>,
    busy: Mutex<Busy>,
}

/// A connection that carries a request keeps the permit, so that a request that is dropped does not make room before its
/// connection is closed.
#[derive(Debug, Default)]
struct Busy {
    permit: Option<OwnedSemaphorePermit>,
    // The head is here and the rest of the exchange is not: the task of the connection sees when it is over.
    sender: Option<SendRequest<RequestBody>>,
}

impl Link {
    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn occupy(&self, permit: OwnedSemaphorePermit) {
        self.wrote.reset();
        self.busy().permit = Some(permit);
    }

    fn vacate(&self) -> Option<OwnedSemaphorePermit> {
        self.busy().permit.take()
    }

    /// Takes the sender when the exchange is over and the connection can carry another.
    fn finished(&self) -> Option<(SendRequest<RequestBody>, Option<OwnedSemaphorePermit>)> {
        let mut busy = self.busy();
        let sender = busy.sender.take_if(|sender| sender.is_ready())?;
        Some((sender, busy.permit.take()))
    }
}

impl Pool {
    pub(super) fn new(address: &Address, base: Base) -> Self {
        Self {
            base,
            host: HeaderValue::from_str(address.authority()).ok(),
            idle: Mutex::default(),
        }
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Received>, Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::tunnel());
        }
        self.address(&mut request);
        let mut permit = self.base.limits.slot().await?;
        loop {
            let mut exchange = match self.take() {
                Some(exchange) => exchange,
                None => {
                    progress.dial();
                    self.open().await?
                }
            };
            exchange.link.occupy(permit);
            crate::timeout::tell(&mut request);
            progress.send();
            let sent = exchange.sender.try_send_request(request).await;
            let link = exchange.link.clone();
            match sent.map_err(Unanswered::from) {
                Ok(response) => {
                    self.give_back(exchange);
                    return Ok(response.map(Received::new));
                }
                Err(Unanswered::Returned(returned, _)) if exchange.reused => {
                    progress.start_over();
                    request = *returned;
                    permit = match link.vacate() {
                        Some(permit) => permit,
                        None => self.base.limits.slot().await?,
                    };
                }
                Err(Unanswered::Returned(_, error)) => return Err(Failure::Unsent(error)),
                Err(Unanswered::Lost(error)) if !link.wrote.anything() => {
                    return Err(Failure::Unsent(error));
                }
                Err(Unanswered::Lost(error)) => return Err(Failure::Broken(error)),
            }
        }
    }

    /// The hop to the endpoint is HTTP/1.1 whatever the hop to here was.
    fn address(&self, request: &mut Request<RequestBody>) {
        *request.version_mut() = Version::HTTP_11;
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Some(host) = &self.host {
            request
                .headers_mut()
                .entry(HOST)
                .or_insert_with(|| host.clone());
        }
    }

    async fn open(self: &Arc<Self>) -> Result<Exchange, Failure> {
        let exchange = self.base.dialer.open(async |tcp| {
            let now = clock::now();
            let link = Arc::new(Link {
                wrote: Wrote::default(),
                expiry: self.base.expiry(now),
                busy: Mutex::default(),
            });
            let held = (self.base.limits.opened(), link.clone());
            let io = Io::new(tcp, link.wrote.clone(), held);
            let (sender, connection) = Builder::new().handshake(io).await?;
            let keeper = Keep {
                pool: Arc::downgrade(self),
                link: link.clone(),
            };
            let first_look = self.base.idle_until(now, link.expiry) - now;
            tokio::spawn(Driver::new(connection.with_upgrades(), keeper, first_look));
            Ok(Exchange {
                sender,
                link,
                reused: false,
            })
        });
        Ok(exchange.await?)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Exchange> {
        loop {
            let Idle { exchange, .. } = self.idle().pop()?;
            if exchange.sender.is_ready() {
                return Some(exchange);
            }
        }
    }

    fn give_back(&self, exchange: Exchange) {
        let Exchange { sender, link, .. } = exchange;
        link.busy().sender = Some(sender);
        // After that, so that either this or the connection's task sees it ready.
        self.settle(&link);
    }

    fn settle(&self, link: &Arc<Link>) {
        let Some((sender, permit)) = link.finished() else {
            return;
        };
        let now = clock::now();
        if link.expiry.is_none_or(|expiry| now < expiry) {
            self.idle().push(Idle {
                exchange: Exchange {
                    sender,
                    link: link.clone(),
                    reused: true,
                },
                since: now,
            });
        }
        // Whoever gets it next finds the connection.
        drop(permit);
    }

    /// Takes the connection out if it is idle and `due` says so; otherwise tells when it will be.
    fn take_out(&self, link: &Arc<Link>, due: impl FnOnce(&Idle) -> bool) -> Option<Idle> {
        let mut idle = self.idle();
        let at = idle
            .iter()
            .position(|idle| Arc::ptr_eq(&idle.exchange.link, link))?;
        due(&idle[at]).then(|| idle.remove(at))
    }

    pub(super) fn counts(&self) -> Counts {
        let usable = |idle: &&Idle| idle.exchange.sender.is_ready();
        let idle = self.idle().iter().filter(usable).count();
        self.base.limits.counts(idle)
    }
}

struct Keep {
    pool: Weak<Pool>,
    link: Arc<Link>,
}

impl<C> Keeper<C> for Keep {
    fn progressed(&mut self, _: &C) {
        match self.pool.upgrade() {
            Some(pool) => pool.settle(&self.link),
            None => drop(self.link.finished()),
        }
    }

    fn look(&mut self, now: Instant) -> Option<Instant> {
        let pool = self.pool.upgrade()?;
        // What is busy now is idle no sooner than now.
        let mut next = now + pool.base.idle_timeout;
        let expired = pool.take_out(&self.link, |idle| {
            let end = pool.base.idle_until(idle.since, self.link.expiry);
            if end > now {
                next = end;
            }
            end <= now
        });
        expired.is_none().then_some(next)
    }

    fn ended(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            drop(pool.take_out(&self.link, |_| true));
        }
    }
}
