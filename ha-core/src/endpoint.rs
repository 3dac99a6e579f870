//! What a balancer chooses between: an address with a name, a weight and a place.
//!
//! State that is learned about an endpoint (requests in flight, latency, health, breaker) belongs to its
//! [`EndpointKey`]. A new weight, new metadata or another discovery of the same key keeps that state.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why an address or a weight was refused. Each variant carries the text that was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// There is no `scheme://` in front.
    #[error("address {value:?} has no scheme, write it like \"http://host:port\"")]
    NoScheme {
        /// The text given.
        value: String,
    },
    /// Nothing stands between `scheme://` and the port or the end.
    #[error("address {value:?} has no host")]
    NoHost {
        /// The text given.
        value: String,
    },
    /// The scheme or the host contains a character that cannot be there.
    #[error("address {value:?} contains {found:?}, which is not allowed there")]
    BadCharacter {
        /// The text given.
        value: String,
        /// The first character that cannot be there.
        found: char,
    },
    /// The port is not a number from 1 to 65535.
    #[error("address {value:?} has the port {port:?}, which is not a number from 1 to 65535")]
    BadPort {
        /// The text given.
        value: String,
        /// What stands where the port should be.
        port: String,
    },
    /// The scheme has no well-known port and none was given.
    #[error("address {value:?} has no port, and its scheme has no usual one")]
    NoPort {
        /// The text given.
        value: String,
    },
    /// Something follows the port: a path, a query or a fragment.
    #[error(
        "address {value:?} goes on with {rest:?} after the host; only scheme, host and port belong here"
    )]
    NotOnlyAuthority {
        /// The text given.
        value: String,
        /// What follows the authority.
        rest: String,
    },
    /// User name or password before the host. They would end up in logs.
    #[error(
        "address has user information before the host; credentials do not belong in an address"
    )]
    UserInfo,
    /// A weight above [`Weight::MAX`].
    #[error("weight {value} is above {}", Weight::MAX_VALUE)]
    WeightTooLarge {
        /// The number given.
        value: u64,
    },
}

/// The name of an endpoint, stable across discoveries. Cloning it copies a pointer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

impl EndpointKey {
    /// A key with this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointKey({:?})", &*self.0)
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for EndpointKey {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for EndpointKey {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for EndpointKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How large a share of the traffic an endpoint takes beside the others. The default is 1; 0 means no new requests,
/// while those in flight finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    const MAX_VALUE: u32 = 1_000_000;
    /// No new requests.
    pub const ZERO: Self = Self(0);
    /// The default.
    pub const ONE: Self = Self(1);
    /// The largest weight, a million: sums of ten thousand of them are far from overflow.
    pub const MAX: Self = Self(Self::MAX_VALUE);

    /// A weight from 0 to a million.
    ///
    /// # Errors
    /// [`EndpointError::WeightTooLarge`].
    pub fn new(value: u32) -> Result<Self, EndpointError> {
        if value > Self::MAX_VALUE {
            return Err(EndpointError::WeightTooLarge {
                value: u64::from(value),
            });
        }
        Ok(Self(value))
    }

    /// The number.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// Where an endpoint stands. Empty text means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The region, such as `eu-west`.
    pub region: Arc<str>,
    /// The zone inside the region, such as `eu-west-1b`.
    pub zone: Arc<str>,
}

/// Scheme, host and port of an endpoint, and nothing else.
///
/// ```
/// use ha_core::endpoint::{Address, EndpointError};
///
/// let address: Address = "http://[::1]:3000".parse()?;
/// assert_eq!((address.host(), address.port()), ("::1", 3000));
/// assert_eq!(address.authority(), "[::1]:3000");
/// assert!(matches!("http://:3000".parse::<Address>(), Err(EndpointError::NoHost { .. })));
/// # Ok::<(), EndpointError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Arc<str>,
    authority: Arc<str>,
    host_len: usize,
    port: u16,
}

impl Address {
    /// The scheme in lower case, without `://`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host name or IP address, the latter without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = &self.authority[..self.host_len];
        host.strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port: as given, else 80 for `http` and 443 for `https`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The same scheme and port at a resolved IP address.
    #[must_use]
    pub fn with_ip(&self, ip: std::net::IpAddr) -> Self {
        let host = match ip {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Self::assemble(self.scheme.clone(), &host, self.port)
    }

    fn assemble(scheme: Arc<str>, host: &str, port: u16) -> Self {
        Self {
            scheme,
            authority: format!("{host}:{port}").into(),
            host_len: host.len(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl FromStr for Address {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let value = || text.to_owned();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(EndpointError::NoScheme { value: value() });
        };
        if scheme.is_empty() {
            return Err(EndpointError::NoScheme { value: value() });
        }
        let scheme_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if let Some(found) = scheme.chars().find(|c| !scheme_ok(*c)) {
            return Err(EndpointError::BadCharacter {
                value: value(),
                found,
            });
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, after) = rest.split_at(end);
        // Before anything that quotes the value: it may hold a password.
        if authority.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if !after.is_empty() && after != "/" {
            return Err(EndpointError::NotOnlyAuthority {
                value: value(),
                rest: after.to_owned(),
            });
        }
        let (host, port) = split_port(authority);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if host.is_empty() || bare == Some("") {
            return Err(EndpointError::NoHost { value: value() });
        }
        let bad = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => None,
            Some(_) => Some('['),
            None => host
                .chars()
                .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))),
        };
        if let Some(found) = bad {
            return Err(EndpointError::BadCharacter {
                value: value(),
                found,
            });
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = match (port, scheme.as_str()) {
            (None, "http") => 80,
            (None, "https") => 443,
            (None, _) => return Err(EndpointError::NoPort { value: value() }),
            (Some(port), _) => match port.parse::<u16>() {
                // `u16::from_str` takes a leading plus.
                Ok(number) if number > 0 && !port.starts_with('+') => number,
                _ => {
                    return Err(EndpointError::BadPort {
                        value: value(),
                        port: port.to_owned(),
                    });
                }
            },
        };
        Ok(Self::assemble(scheme.into(), host, port))
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    // The colons of an IPv6 address stand inside brackets.
    let after_brackets = authority.rfind(']').map_or(0, |i| i + 1);
    match authority[after_brackets..].find(':') {
        Some(i) => {
            let at = after_brackets + i;
            (&authority[..at], Some(&authority[at + 1..]))
        }
        None => (authority, None),
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing to send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The name that its state belongs to.
    pub key: EndpointKey,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic.
    pub weight: Weight,
    /// Where it stands.
    pub locality: Locality,
    /// Lower numbers are preferred. Default 0.
    pub priority: u8,
    /// Whatever the source of the endpoint wants to pass on.
    pub metadata: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint whose key is its `host:port`, with weight 1 and priority 0.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            key: EndpointKey::new(address.authority()),
            address,
            weight: Weight::ONE,
            locality: Locality::default(),
            priority: 0,
            metadata: BTreeMap::new(),
        }
    }

    /// The same endpoint under another key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<EndpointKey>) -> Self {
        self.key = key.into();
        self
    }

    /// The same endpoint with another weight.
    #[must_use]
    pub fn with_weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        text.parse().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_addresses_are_taken_apart() {
        for (text, scheme, host, port, authority) in [
            (
                "http://127.0.0.1:3000",
                "http",
                "127.0.0.1",
                3000,
                "127.0.0.1:3000",
            ),
            ("http://app", "http", "app", 80, "app:80"),
            (
                "HTTPS://app.internal/",
                "https",
                "app.internal",
                443,
                "app.internal:443",
            ),
            ("http://[::1]:8080", "http", "::1", 8080, "[::1]:8080"),
            ("http://[fe80::1]", "http", "fe80::1", 80, "[fe80::1]:80"),
            ("tcp://my_host:1", "tcp", "my_host", 1, "my_host:1"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.scheme(), scheme, "{text}");
            assert_eq!(address.host(), host, "{text}");
            assert_eq!(address.port(), port, "{text}");
            assert_eq!(address.authority(), authority, "{text}");
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn bad_addresses_are_refused_with_the_value_in_the_message() {
        for (text, part) in [
            ("127.0.0.1:3000", "no scheme"),
            ("", "no scheme"),
            ("://x", "no scheme"),
            ("http://", "no host"),
            ("http://:3000", "no host"),
            ("http:///path", "after the host"),
            ("http://[]:1", "no host"),
            ("http://[zz]:1", "not allowed"),
            ("http://a b:1", "not allowed"),
            ("ht tp://a:1", "not allowed"),
            ("http://host:", "port"),
            ("http://host:0", "port"),
            ("http://host:+1", "port"),
            ("http://host:65536", "port"),
            ("http://::1:80", "no host"),
            ("redis://host", "no port"),
            ("http://host:1/base", "after the host"),
            ("http://host?x", "after the host"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_never_reaches_the_message() {
        for text in ["http://me:secret@host:1", "http://me:secret@host:1/path"] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error, EndpointError::UserInfo);
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn weights_stop_at_a_million() {
        assert_eq!(Weight::new(1_000_000).unwrap(), Weight::MAX);
        assert_eq!(
            Weight::new(1_000_001).unwrap_err(),
            EndpointError::WeightTooLarge { value: 1_000_001 }
        );
    }

    #[test]
    fn a_resolved_address_keeps_scheme_and_port() {
        let address: Address = "http://name:81".parse().unwrap();
        assert_eq!(
            address.with_ip("::1".parse().unwrap()).to_string(),
            "http://[::1]:81"
        );
        assert_eq!(
            address.with_ip("10.0.0.1".parse().unwrap()).to_string(),
            "http://10.0.0.1:81"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_stable(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }

        #[test]
        fn near_misses_of_addresses_do_not_panic(text in "(http|h)?(:|//|://)?[\\[\\]a:0-9@/.]{0,20}") {
            let _ = text.parse::<Address>();
        }
    }
}
