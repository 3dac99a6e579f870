//! The cookies: a signed or encrypted session id, and the newest version that its holder was told.
//!
//! They are two, because answers overtake each other on their way. The id is sent only when it changes: otherwise the late answer of
//! a request that merely wrote would put back an id that was rotated away meanwhile. The version is sent with each commit, and
//! holds for one id only, so that a late one is worth nothing beside a newer id. One that was made with an older key of the ring is
//! sent anew with the next commit, so that the older key can be dropped one day.

mod config;
mod seal;
mod ticket;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::Cookie;
use ha_core::sign::{KeyRing, TAG_LEN as SIGNATURE_LEN};
use http::header::{COOKIE, HeaderMap, HeaderValue};

pub use self::config::{CookieConfig, Lifetime, Prefix, Protection, SameSite};
use self::seal::{NONCE_LEN, Sealer};
pub use self::ticket::Degraded;
pub(crate) use self::ticket::Ticket;
use crate::error::ConfigError;
use crate::id::{ID_LEN, SessionId};
use crate::record::Version;

const SIGNED: u8 = 1;
const ENCRYPTED: u8 = 2;
const PAYLOAD_LEN: usize = ID_LEN + 8;
/// The longest text of a cookie of ours is 102 characters: whatever is much longer needs no decoding.
const MAX_TEXT: usize = 256;
/// Cookies of our name that are looked at in one request; a browser sends one.
const MAX_CANDIDATES: usize = 8;

/// What a request presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) id: SessionId,
    pub(crate) floor: Version,
}

/// How cookies are named, protected and sent.
#[derive(Debug, Clone)]
pub(crate) struct Cookies {
    keys: KeyRing,
    sealer: Sealer,
    ticket_sealer: Sealer,
    config: CookieConfig,
    name: String,
    version_name: String,
    ticket_name: String,
    /// What is signed and encrypted holds for a cookie of this name only, so that another app with the same keys cannot be
    /// handed it.
    domain: String,
    version_domain: String,
}

impl Cookies {
    pub(crate) fn new(keys: KeyRing) -> Self {
        Self::assemble(keys, CookieConfig::default())
    }

    fn assemble(keys: KeyRing, config: CookieConfig) -> Self {
        let name = config.full_name();
        Self {
            sealer: Sealer::new(&keys, "ha-session cookie"),
            ticket_sealer: Sealer::new(&keys, "ha-session ticket"),
            version_name: format!("{name}-v"),
            version_domain: format!("ha-session version {name}"),
            ticket_name: format!("{name}-ticket"),
            domain: format!("ha-session cookie {name}"),
            keys,
            config,
            name,
        }
    }

    pub(crate) fn configured(self, config: CookieConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::assemble(self.keys, config))
    }

    pub(crate) fn insecure(self) -> Self {
        Self::assemble(self.keys, self.config.insecure())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn read(&self, headers: &HeaderMap) -> Option<Presented> {
        Some(self.read_dated(headers)?.0)
    }

    /// The first cookie of our name that is of our making, and whether it was made with an older key than new ones are. Whatever else
    /// there is counts as no cookie: it says nothing about any session.
    pub(crate) fn read_dated(&self, headers: &HeaderMap) -> Option<(Presented, bool)> {
        let (key, presented) = named(headers, &self.name).find_map(|text| self.decode_by(text))?;
        let told = named(headers, &self.version_name);
        let told = told.filter_map(|text| self.decode_version(presented.id, text));
        let newest = Presented {
            floor: told.fold(presented.floor, Version::max),
            ..presented
        };
        Some((newest, key > 0))
    }

    /// The version that a cookie says the holder of this id was told.
    fn decode_version(&self, id: SessionId, text: &str) -> Option<Version> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, signature) = bytes.split_first_chunk::<8>()?;
        let signed = [&id.as_bytes()[..], version].concat();
        let holds = signature.len() == SIGNATURE_LEN
            && self.keys.verify(&self.version_domain, &signed, signature);
        holds.then(|| Version::new(u64::from_be_bytes(*version)))
    }

    #[cfg(test)]
    pub(crate) fn decode(&self, text: &str) -> Option<Presented> {
        Some(self.decode_by(text)?.1)
    }

    /// What a cookie says, and by which key of the ring.
    fn decode_by(&self, text: &str) -> Option<(usize, Presented)> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&format, body) = bytes.split_first()?;
        let (key, plain) = match format {
            SIGNED => {
                let (payload, signature) = body.split_at_checked(PAYLOAD_LEN)?;
                if signature.len() != SIGNATURE_LEN {
                    return None;
                }
                let key = self.keys.verified_by(&self.domain, payload, signature)?;
                (key, payload.to_vec())
            }
            ENCRYPTED => self.sealer.opened_by(self.domain.as_bytes(), body)?,
            _ => return None,
        };
        let (id, floor) = plain.split_first_chunk::<ID_LEN>()?;
        let presented = Presented {
            id: SessionId::from_bytes(*id),
            floor: Version::new(u64::from_be_bytes(floor.try_into().ok()?)),
        };
        Some((key, presented))
    }

    fn encode(&self, presented: Presented) -> Result<String, getrandom::Error> {
        let mut plain = presented.id.as_bytes().to_vec();
        plain.extend_from_slice(&presented.floor.get().to_be_bytes());
        let bytes = match self.config.protection {
            Protection::Signed => {
                let signature = self.keys.sign(&self.domain, &plain);
                [&[SIGNED][..], &plain, &signature].concat()
            }
            Protection::Encrypted => {
                let sealed = self.sealer.seal(nonce()?, self.domain.as_bytes(), &plain);
                [&[ENCRYPTED][..], &sealed.unwrap_or_default()].concat()
            }
        };
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// `Set-Cookie` that hands out `presented` for `max_age`.
    pub(crate) fn set(
        &self,
        presented: Presented,
        max_age: Duration,
    ) -> Result<Option<HeaderValue>, getrandom::Error> {
        let max_age = self.max_age(max_age);
        Ok(self.header(&self.name, self.encode(presented)?, max_age))
    }

    /// `Set-Cookie` that says how new the state is that the holder of the id was told.
    pub(crate) fn set_version(
        &self,
        presented: Presented,
        max_age: Duration,
    ) -> Option<HeaderValue> {
        let version = presented.floor.get().to_be_bytes();
        let signed = [&presented.id.as_bytes()[..], &version].concat();
        let signature = self.keys.sign(&self.version_domain, &signed);
        let text = URL_SAFE_NO_PAD.encode([&version[..], &signature].concat());
        self.header(&self.version_name, text, self.max_age(max_age))
    }

    fn max_age(&self, left: Duration) -> Option<Duration> {
        match self.config.lifetime {
            Lifetime::Absolute => Some(left),
            Lifetime::Browser => None,
        }
    }

    /// `Set-Cookie` that takes the id back.
    pub(crate) fn clear(&self) -> Option<HeaderValue> {
        self.header(&self.name, String::new(), Some(Duration::ZERO))
    }

    /// `Set-Cookie` that takes the version back.
    pub(crate) fn clear_version(&self) -> Option<HeaderValue> {
        self.header(&self.version_name, String::new(), Some(Duration::ZERO))
    }

    /// The texts of the tickets that a request presented.
    pub(crate) fn tickets(&self, headers: &HeaderMap) -> Vec<String> {
        named(headers, &self.ticket_name)
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn open_ticket(&self, id: SessionId, text: &str) -> Option<Ticket> {
        Ticket::open(&self.ticket_sealer, self.ticket_name.as_bytes(), id, text)
    }

    /// `Set-Cookie` with a ticket, unless it is too large for a cookie.
    pub(crate) fn set_ticket(
        &self,
        id: SessionId,
        ticket: &Ticket,
        lifetime: Duration,
    ) -> Result<Option<HeaderValue>, getrandom::Error> {
        let context = self.ticket_name.as_bytes();
        let text = ticket.seal(&self.ticket_sealer, nonce()?, context, id);
        Ok(text.and_then(|text| self.header(&self.ticket_name, text, Some(lifetime))))
    }

    /// `Set-Cookie` that takes a ticket back.
    pub(crate) fn clear_ticket(&self) -> Option<HeaderValue> {
        self.header(&self.ticket_name, String::new(), Some(Duration::ZERO))
    }

    fn header(&self, name: &str, value: String, max_age: Option<Duration>) -> Option<HeaderValue> {
        let config = &self.config;
        let mut cookie = Cookie::build((name, value))
            .path(config.path.as_str())
            .secure(config.secure)
            .http_only(config.http_only)
            .partitioned(config.partitioned)
            .same_site(config.site());
        if let Some(domain) = &config.domain {
            cookie = cookie.domain(domain.as_str());
        }
        if let Some(max_age) = max_age {
            let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            cookie = cookie.max_age(cookie::time::Duration::seconds(seconds));
        }
        HeaderValue::try_from(cookie.build().to_string()).ok()
    }
}

/// The texts of the cookies of this name, the first few. Works on bytes: a neighbour's cookie that is not ASCII must not
/// hide ours.
pub(crate) fn named<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (found, value) = pair.split_at(at);
            (found.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
        })
        .take(MAX_CANDIDATES)
        .filter_map(|value| std::str::from_utf8(value).ok())
}

#[cfg(feature = "fuzzing")]
pub(crate) fn parse_ticket(plain: &[u8]) {
    drop(Ticket::parse(plain));
}

fn nonce() -> Result<[u8; NONCE_LEN], getrandom::Error> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests;
