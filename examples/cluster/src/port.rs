//! Chooses the port that both edges listen on, and ports for the rest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// The port tried first when none is asked for.
pub const DEFAULT: u16 = 8080;

/// How many ports after [`DEFAULT`] are tried.
const TRIES: u16 = 100;

/// Why no port could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port that was asked for is taken.
    #[error(
        "port {port} is taken on {address}; choose another with --port, or leave it out to get a free one"
    )]
    Taken {
        /// The port.
        port: u16,
        /// The address on which it is taken.
        address: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Every port of the default range is taken.
    #[error("ports {DEFAULT} to {} are all taken; choose one with --port", DEFAULT + TRIES - 1)]
    NoneFree,
    /// The system refuses loopback ports altogether.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The loopback address of edge `index` (from 0): `127.0.0.1`, then `::1`, so that the name `localhost` lists both as two A
/// and AAAA records would; then `127.0.0.3` and on. Without IPv6 the second is `127.0.0.2`.
pub fn edge_address(index: usize, ipv6: bool) -> IpAddr {
    match index {
        0 => Ipv4Addr::LOCALHOST.into(),
        1 if ipv6 => Ipv6Addr::LOCALHOST.into(),
        n => Ipv4Addr::new(127, 0, 0, u8::try_from(n + 1).unwrap_or(u8::MAX)).into(),
    }
}

/// Whether this machine has `::1`.
pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Addresses for the edges, all with one port: `port`, or the first free one from [`DEFAULT`] on.
///
/// # Errors
/// [`Error::Taken`] names the port that was asked for; [`Error::NoneFree`] when none was.
pub fn edges(count: usize, port: Option<u16>) -> Result<Vec<SocketAddr>, Error> {
    let ipv6 = has_ipv6();
    let addresses: Vec<IpAddr> = (0..count).map(|i| edge_address(i, ipv6)).collect();
    let with = |port| {
        addresses
            .iter()
            .map(|&ip| SocketAddr::new(ip, port))
            .collect()
    };
    if let Some(port) = port {
        return match first_taken(&addresses, port) {
            None => Ok(with(port)),
            Some((address, source)) => Err(Error::Taken {
                port,
                address,
                source,
            }),
        };
    }
    (DEFAULT..DEFAULT + TRIES)
        .find(|&port| first_taken(&addresses, port).is_none())
        .map(with)
        .ok_or(Error::NoneFree)
}

/// Addresses for the edges of a cluster nobody types the address of: one random free port.
///
/// # Errors
/// [`Error::NoneFree`].
pub fn any_edges(count: usize) -> Result<Vec<SocketAddr>, Error> {
    let ipv6 = has_ipv6();
    let addresses: Vec<IpAddr> = (0..count).map(|i| edge_address(i, ipv6)).collect();
    random_ports()
        .find(|&port| first_taken(&addresses, port).is_none())
        .map(|port| {
            addresses
                .iter()
                .map(|&ip| SocketAddr::new(ip, port))
                .collect()
        })
        .ok_or(Error::NoneFree)
}

fn first_taken(addresses: &[IpAddr], port: u16) -> Option<(IpAddr, io::Error)> {
    addresses
        .iter()
        .find_map(|&ip| TcpListener::bind((ip, port)).err().map(|e| (ip, e)))
}

/// Ports below the range from which the system takes the local ends of outgoing connections: a part that is killed and
/// started again later must find its port still free.
fn random_ports() -> impl Iterator<Item = u16> {
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).take(500)
}

/// `count` free loopback addresses.
///
/// # Errors
/// [`Error::NoneFree`].
pub fn loopback(count: usize) -> Result<Vec<SocketAddr>, Error> {
    let mut held = Vec::with_capacity(count);
    for port in random_ports() {
        if held.len() == count {
            break;
        }
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    if held.len() < count {
        return Err(Error::NoneFree);
    }
    Ok(held
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_by_number() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = edges(2, Some(port)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("port {port} is taken on 127.0.0.1")),
            "{error}"
        );
    }

    #[test]
    fn a_port_taken_on_the_second_address_alone_is_refused_as_well() {
        let second = edge_address(1, has_ipv6());
        let holder = TcpListener::bind((second, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        assert!(
            matches!(edges(2, Some(port)), Err(Error::Taken { address, .. }) if address == second)
        );
        assert!(
            edges(1, Some(port)).is_ok(),
            "one edge needs the first address only"
        );
    }

    #[test]
    fn edges_share_one_port_on_different_addresses() {
        let found = any_edges(3).unwrap();
        assert_eq!(found.len(), 3);
        assert!(
            found
                .iter()
                .all(|a| a.port() == found[0].port() && a.ip().is_loopback())
        );
        assert_ne!(found[0].ip(), found[1].ip());
        assert_ne!(found[1].ip(), found[2].ip());
    }

    #[test]
    fn loopback_ports_are_distinct() {
        let ports: std::collections::BTreeSet<_> = loopback(8).unwrap().into_iter().collect();
        assert_eq!(ports.len(), 8);
    }
}
