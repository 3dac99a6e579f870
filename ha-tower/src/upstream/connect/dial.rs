use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use ha_core::endpoint::Address;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::{ConnectError, Connections};

/// RFC 8305 wants a quarter of a second between attempts when the time allows it.
const LONGEST_STAGGER: Duration = Duration::from_millis(250);

/// Opens TCP connections to one endpoint.
#[derive(Debug)]
pub(super) struct Dialer {
    host: Arc<str>,
    port: u16,
    limit: Duration,
    keepalive: Option<TcpKeepalive>,
    user_timeout: Option<Duration>,
}

impl Dialer {
    pub(super) fn new(address: &Address, limit: Duration, settings: &Connections) -> Self {
        let keepalive = |silence| {
            TcpKeepalive::new()
                .with_time(silence)
                .with_interval(Duration::from_secs(5))
                .with_retries(3)
        };
        Self {
            host: address.host().into(),
            port: address.port(),
            limit,
            keepalive: settings.tcp_keepalive.map(keepalive),
            user_timeout: settings.tcp_user_timeout,
        }
    }

    /// Runs `handshake` on a new connection, all within the connect timeout.
    pub(super) async fn open<T, F>(
        &self,
        handshake: impl FnOnce(TcpStream) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = hyper::Result<T>>,
    {
        let open = async {
            let tcp = self.connect().await?;
            handshake(tcp)
                .await
                .map_err(|error| ConnectError::Handshake {
                    source: Arc::new(error),
                })
        };
        tokio::time::timeout(self.limit, open)
            .await
            .unwrap_or(Err(ConnectError::Timeout { limit: self.limit }))
    }

    async fn connect(&self) -> Result<TcpStream, ConnectError> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return self.connect_to(SocketAddr::new(ip, self.port)).await;
        }
        let unresolved = |source: io::Error| ConnectError::Resolve {
            host: self.host.clone(),
            source: Arc::new(source),
        };
        let found = tokio::net::lookup_host((&*self.host, self.port))
            .await
            .map_err(unresolved)?;
        // A third of the time leaves two thirds to the next address.
        let stagger = (self.limit / 3).min(LONGEST_STAGGER);
        race(alternate(found.collect()), stagger, |address| {
            self.connect_to(address)
        })
        .await
        .map_err(|error| error.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        let connect = async {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            if let Err(error) = self.prepare(&socket) {
                // A connection without them is better than none.
                crate::trace::warn!(%address, %error, "TCP options were refused");
            }
            socket.connect(address).await
        };
        connect.await.map_err(|error: io::Error| ConnectError::Tcp {
            address,
            source: Arc::new(error),
        })
    }

    fn prepare(&self, socket: &TcpSocket) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let socket = SockRef::from(socket);
        if let Some(keepalive) = &self.keepalive {
            socket.set_tcp_keepalive(keepalive)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

/// One family after the other, beginning with the one that the resolver put first (RFC 8305, section 4).
fn alternate(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// Starts with the first address, and with the next one each time `stagger` has passed or one has failed. The first that
/// connects wins and the others are dropped; when all fail, the first failure is told, or none when there was no address.
async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    loop {
        match waiting.next() {
            Some(address) => running.push(connect(address)),
            None if running.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            biased;
            Some(result) = running.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            },
            () = tokio::time::sleep(stagger), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const STAGGER: Duration = Duration::from_millis(80);
    const LIMIT: Duration = Duration::from_millis(250);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Ports say what happens: 1 hangs, 2 is refused after 10 ms, 3 connects after 10 ms.
    async fn pretend(address: SocketAddr) -> Result<SocketAddr, SocketAddr> {
        match address.port() {
            1 => std::future::pending().await,
            2 => {
                sleep(Duration::from_millis(10)).await;
                Err(address)
            }
            _ => {
                sleep(Duration::from_millis(10)).await;
                Ok(address)
            }
        }
    }

    #[test]
    fn families_take_turns_and_the_resolver_says_which_is_first() {
        for (found, expected) in [
            (
                &["[::1]:1", "[::2]:1", "1.1.1.1:1"][..],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1"][..],
            ),
            (
                &["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", "[::1]:1"],
                &["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "1.1.1.3:1"],
            ),
            (&["[::1]:1"], &["[::1]:1"]),
            (&[], &[]),
        ] {
            assert_eq!(alternate(addresses(found)), addresses(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_hangs_costs_one_stagger_and_one_that_refuses_nothing() {
        for (list, winner, millis) in [
            (&["[::1]:1", "1.1.1.1:3"][..], "1.1.1.1:3", 90),
            (&["[::1]:2", "1.1.1.1:3"], "1.1.1.1:3", 20),
            (&["[::1]:1", "1.1.1.1:1", "[::2]:3"], "[::2]:3", 170),
            (&["[::1]:3", "1.1.1.1:3"], "[::1]:3", 10),
        ] {
            let begun = Instant::now();
            let won = race(addresses(list), STAGGER, pretend);
            let won = timeout(LIMIT, won)
                .await
                .expect("nobody waits for the one that hangs");
            assert_eq!(won.unwrap().to_string(), winner);
            assert_eq!(begun.elapsed(), Duration::from_millis(millis), "{list:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_after_the_other_would_run_out_of_time() {
        let list = addresses(&["[::1]:1", "1.1.1.1:3"]);
        let one_by_one = async {
            for address in &list {
                if let Ok(connected) = pretend(*address).await {
                    return Some(connected);
                }
            }
            None
        };
        assert!(timeout(LIMIT, one_by_one).await.is_err());
        let raced = timeout(LIMIT, race(list.clone(), STAGGER, pretend)).await;
        assert!(raced.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_connection_has_the_options_that_were_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let address: Address = url.parse().unwrap();
        let (silence, unacknowledged) = (Duration::from_secs(7), Duration::from_millis(1234));
        let asked = Connections::default()
            .tcp_keepalive(Some(silence))
            .tcp_user_timeout(Some(unacknowledged));
        let plain = Connections::default()
            .tcp_keepalive(None)
            .tcp_user_timeout(None);
        for (settings, keepalive) in [(asked, true), (plain, false)] {
            let dialer = Dialer::new(&address, Duration::from_secs(30), &settings);
            let tcp = dialer.connect().await.unwrap();
            let socket = SockRef::from(&tcp);
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.keepalive().unwrap(), keepalive);
            if keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), silence);
            }
            #[cfg(target_os = "linux")]
            assert_eq!(
                socket.tcp_user_timeout().unwrap(),
                keepalive.then_some(unacknowledged)
            );
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_apart_from_one_that_refuses() {
        // No label is that long, which the system knows without asking anybody.
        let name = "x".repeat(64);
        let address: Address = format!("http://{name}:1").parse().unwrap();
        let dialer = Dialer::new(&address, Duration::from_secs(30), &Connections::default());
        let failed = dialer.connect().await.unwrap_err();
        assert!(
            matches!(&failed, ConnectError::Resolve { host, .. } if **host == name),
            "{failed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_first_failure_is_told() {
        let failed = race(addresses(&["[::1]:2", "1.1.1.1:2"]), STAGGER, pretend).await;
        assert_eq!(failed.unwrap_err().unwrap().to_string(), "[::1]:2");
        let none = race(Vec::new(), STAGGER, pretend).await;
        assert_eq!(none, Err(None));
    }
}
