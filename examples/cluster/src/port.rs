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

/// The edges' addresses, taken until this is dropped: many seconds pass between choosing a port and the first edge, and
/// another program must not get it meanwhile.
#[derive(Debug)]
pub struct Held {
    listeners: Vec<TcpListener>,
}

impl Held {
    /// Lets go, for the edges to listen there.
    pub fn release(self) -> Vec<SocketAddr> {
        self.addresses()
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }
}

/// Takes one port on the addresses of all edges: `port`, or the first free one from [`DEFAULT`] on.
///
/// # Errors
/// [`Error::Taken`] names the port that was asked for; [`Error::NoneFree`] when none was.
pub fn edges(count: usize, port: Option<u16>) -> Result<Held, Error> {
    match port {
        Some(port) => hold(count, port),
        None => (DEFAULT..DEFAULT + TRIES)
            .find_map(|port| hold(count, port).ok())
            .ok_or(Error::NoneFree),
    }
}

/// Takes this port on the addresses of all edges.
///
/// # Errors
/// [`Error::Taken`].
pub fn hold(count: usize, port: u16) -> Result<Held, Error> {
    let ipv6 = has_ipv6();
    let listeners = (0..count)
        .map(|index| {
            let address = edge_address(index, ipv6);
            TcpListener::bind((address, port)).map_err(|source| Error::Taken {
                port,
                address,
                source,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Held { listeners })
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
    fn edges_share_one_port_on_different_addresses_and_keep_it_until_it_is_released() {
        let held = edges(3, None).unwrap();
        let addresses = held.addresses();
        assert_eq!(addresses.len(), 3);
        let port = addresses[0].port();
        assert!(
            addresses
                .iter()
                .all(|a| a.port() == port && a.ip().is_loopback())
        );
        assert_ne!(addresses[0].ip(), addresses[1].ip());
        assert_ne!(addresses[1].ip(), addresses[2].ip());
        assert!(matches!(hold(3, port), Err(Error::Taken { .. })));
        assert_eq!(held.release(), addresses);
    }
}
