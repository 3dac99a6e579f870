use std::fmt;
use std::sync::Arc;

use ha_core::config::ConfigError;
use ha_core::hash::hash_key;
use http::header::COOKIE;
use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri};

use super::{InFlight, Protocol, Verdict};
use crate::proxy::Peer;
use crate::tried::Tried;

/// What of a request decides by a hash where it goes.
///
/// A request that does not have it goes anywhere, by weight, as if its key were a random one.
///
/// ```
/// use ha_tower::balance::{HashKey, Policy, RingHash};
///
/// let by_user = Policy::from(RingHash::new(HashKey::header("x-user")));
/// let by_tenant = Policy::from(RingHash::new(HashKey::with(|head| {
///     let tenant = head.uri.path().split('/').nth(1)?;
///     Some(ha_core::hash::hash_key(tenant.as_bytes()))
/// })));
/// # drop((by_user, by_tenant));
/// ```
#[derive(Debug, Clone)]
pub struct HashKey(Source);

#[derive(Clone)]
enum Source {
    Header(Result<HeaderName, String>),
    Cookie(String),
    Query(String),
    Address,
    Path,
    With(With),
    Protocol,
}

type With = Arc<dyn Fn(Head<'_>) -> Option<u64> + Send + Sync>;

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Cookie(name) => f.debug_tuple("Cookie").field(name).finish(),
            Self::Query(name) => f.debug_tuple("Query").field(name).finish(),
            Self::Address => f.write_str("Address"),
            Self::Path => f.write_str("Path"),
            Self::With(_) => f.write_str("With"),
            Self::Protocol => f.write_str("Protocol"),
        }
    }
}

/// The head of an HTTP request, as a closure of [`HashKey::with`] sees it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What the layers outside left, such as the [`Peer`].
    pub extensions: &'a Extensions,
}

impl HashKey {
    /// The value of this header field, the first when there are several.
    pub fn header(name: impl AsRef<str>) -> Self {
        let text = name.as_ref();
        Self(Source::Header(text.parse().map_err(|_| text.to_owned())))
    }

    /// The value of this cookie.
    pub fn cookie(name: impl Into<String>) -> Self {
        Self(Source::Cookie(name.into()))
    }

    /// The IP address, without the port, at the other end of the connection: the [`Peer`] extension. Behind another proxy
    /// that is the proxy.
    #[must_use]
    pub const fn source_address() -> Self {
        Self(Source::Address)
    }

    /// The path, without the query.
    #[must_use]
    pub const fn path() -> Self {
        Self(Source::Path)
    }

    /// The value of this query parameter as it is written, the first when there are several.
    pub fn query(name: impl Into<String>) -> Self {
        Self(Source::Query(name.into()))
    }

    /// What this says, best through [`ha_core::hash::hash_key`]. It is called for every request, on its way.
    pub fn with(key: impl Fn(Head<'_>) -> Option<u64> + Send + Sync + 'static) -> Self {
        Self(Source::With(Arc::new(key)))
    }

    /// What the [`Protocol`] says by itself, such as [`Keyed`]: for requests that are not HTTP.
    #[must_use]
    pub const fn from_protocol() -> Self {
        Self(Source::Protocol)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match &self.0 {
            Source::Header(Err(text)) => Err(ConfigError::new(
                "hash_key.header",
                format_args!("{text:?}"),
                "must be the name of a header field",
            )),
            Source::Cookie(name) => Self::named("hash_key.cookie", name),
            Source::Query(name) => Self::named("hash_key.query", name),
            _ => Ok(()),
        }
    }

    fn named(field: &'static str, name: &str) -> Result<(), ConfigError> {
        if name.is_empty() || name.contains(['=', ';', '&', ' ']) {
            let value = format_args!("{name:?}");
            let reason = "must be a name without '=', ';', '&' and spaces";
            return Err(ConfigError::new(field, value, reason));
        }
        Ok(())
    }

    /// The hash of the key of this request, if it has one.
    #[must_use]
    pub fn hash<B>(&self, request: &Request<B>) -> Option<u64> {
        let bytes = match &self.0 {
            Source::Header(Ok(name)) => request.headers().get(name)?.as_bytes(),
            Source::Cookie(name) => cookie(request.headers(), name.as_bytes())?,
            Source::Query(name) => {
                let pairs = request.uri().query()?.as_bytes().split(|b| *b == b'&');
                value_of(pairs, name.as_bytes())?
            }
            Source::Path => request.uri().path().as_bytes(),
            Source::Address => return address(request.extensions()),
            Source::With(key) => {
                return key(Head {
                    method: request.method(),
                    uri: request.uri(),
                    headers: request.headers(),
                    extensions: request.extensions(),
                });
            }
            Source::Header(Err(_)) | Source::Protocol => return None,
        };
        Some(hash_key(bytes))
    }
}

fn address(extensions: &Extensions) -> Option<u64> {
    let Peer(peer) = extensions.get()?;
    // One and the same client, whichever way the listener writes it.
    Some(match peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => hash_key(&ip.octets()),
        std::net::IpAddr::V6(ip) => hash_key(&ip.octets()),
    })
}

fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|b| *b == b';'));
    value_of(pairs.map(<[u8]>::trim_ascii), name)
}

/// The value of the first `name=value`.
fn value_of<'a>(mut pairs: impl Iterator<Item = &'a [u8]>, name: &[u8]) -> Option<&'a [u8]> {
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// A protocol whose requests say their hash key by a function, for [`HashKey::from_protocol`].
///
/// ```
/// use ha_core::endpoint::Endpoint;
/// use ha_core::hash::hash_key;
/// use ha_tower::balance::{Any, Balance, HashKey, Keyed, Maglev};
/// use tower::{ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let say = |name| service_fn(move |_: String| async move { Ok::<_, std::io::Error>(name) });
/// let balance = Balance::builder([
///     ("http://10.0.0.1".parse::<Endpoint>()?, say("one")),
///     ("http://10.0.0.2".parse::<Endpoint>()?, say("two")),
/// ])
/// .policy(Maglev::new(HashKey::from_protocol()))
/// .protocol(Keyed::new(Any, |user: &String| Some(hash_key(user.as_bytes()))))
/// .build()?;
///
/// let first = balance.clone().oneshot("ada".to_owned()).await?;
/// assert_eq!(balance.oneshot("ada".to_owned()).await?, first);
/// # Ok::<(), tower::BoxError>(())
/// # })?;
/// # Ok::<(), tower::BoxError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Keyed<P, F> {
    inner: P,
    key: F,
}

impl<P, F> Keyed<P, F> {
    /// As `inner`, with the hash that `key` says.
    pub const fn new(inner: P, key: F) -> Self {
        Self { inner, key }
    }
}

impl<P: fmt::Debug, F> fmt::Debug for Keyed<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<P, F, Req, Res, E> Protocol<Req, Res, E> for Keyed<P, F>
where
    P: Protocol<Req, Res, E>,
    F: Fn(&Req) -> Option<u64>,
{
    type Response = P::Response;

    fn tried<'a>(&self, request: &'a Req) -> Option<&'a Tried> {
        self.inner.tried(request)
    }

    fn hash(&self, request: &Req, _: &HashKey) -> Option<u64> {
        (self.key)(request)
    }

    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        self.inner.classify(result)
    }

    fn finish(&self, response: Res, in_flight: InFlight) -> P::Response {
        self.inner.finish(response, in_flight)
    }
}
