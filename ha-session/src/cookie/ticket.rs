//! The degraded ticket: a few values of a session, encrypted in a cookie of their own, for when no store can say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use super::seal::{NONCE_LEN, Sealer};
use crate::error::ConfigError;
use crate::id::SessionId;
use crate::record::Record;

const FORMAT: u8 = 1;
/// Browsers keep 4096 bytes of name, value and attributes.
const MAX_TEXT: usize = 3500;
/// How far ahead of ours the clock of the app server that issued a ticket may be.
const MAX_AHEAD_MS: u64 = 60_000;

/// Which values a degraded session shows, and for how long.
///
/// With it, the client also carries a second cookie: an encrypted copy of the values named here, bound to its session id.
/// While no store can say what the session holds, a request reads those from the copy; all else stays unknown, and
/// nothing can be written. Name only what a page needs to greet somebody, and nothing that grants more than reading: **a sign-out on
/// another device, or a right taken away, is not seen until the copy is too old.** It is never used while a store answers.
///
/// ```
/// use std::time::Duration;
/// use ha_session::{Degraded, Key, MemoryStore, SessionLayer};
///
/// let layer = SessionLayer::builder(MemoryStore::new(), Key::from_bytes(&[7; 32])?)
///     .degraded(Degraded::showing(["user", "language"]).lifetime(Duration::from_secs(120)))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Degraded {
    pub(crate) names: BTreeSet<String>,
    pub(crate) lifetime: Duration,
}

impl Degraded {
    /// How old a copy may be, 5 minutes: longer than a failover takes, short for a right that was taken away.
    pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
    /// The longest lifetime, an hour.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);

    /// Shows these values.
    pub fn showing<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            names: names.into_iter().map(Into::into).collect(),
            lifetime: Self::DEFAULT_LIFETIME,
        }
    }

    /// How old a copy may be, on the clocks of the app servers. One whose clock is behind the issuer's by more than a
    /// minute does not take it. Default: [`DEFAULT_LIFETIME`](Self::DEFAULT_LIFETIME).
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.names.is_empty() {
            return Err(ConfigError::Zero {
                setting: "degraded names",
            });
        }
        if self.lifetime < Duration::from_secs(1) || self.lifetime > Self::MAX_LIFETIME {
            return Err(ConfigError::TicketLifetime {
                lifetime: self.lifetime,
                max: Self::MAX_LIFETIME,
            });
        }
        Ok(())
    }
}

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// When it was issued, in milliseconds since 1970 on the issuer's clock.
    pub(crate) issued_ms: u64,
    pub(crate) values: BTreeMap<String, Bytes>,
}

impl Ticket {
    pub(crate) fn of(record: &Record, names: &BTreeSet<String>, now_ms: u64) -> Self {
        let shown = names.iter().filter_map(|name| {
            let value = record.values.get(name)?;
            Some((name.clone(), value.bytes.clone()))
        });
        Self {
            issued_ms: now_ms,
            values: shown.collect(),
        }
    }

    pub(crate) fn is_valid(&self, lifetime: Duration, now_ms: u64) -> bool {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.issued_ms <= now_ms.saturating_add(MAX_AHEAD_MS)
            && now_ms.saturating_sub(self.issued_ms) < lifetime
    }

    /// The text of the cookie, or `None` when it would not fit into one.
    pub(super) fn seal(
        &self,
        sealer: &Sealer,
        nonce: [u8; NONCE_LEN],
        context: &[u8],
        id: SessionId,
    ) -> Option<String> {
        let mut plain = vec![FORMAT];
        plain.extend_from_slice(&self.issued_ms.to_be_bytes());
        for (name, value) in &self.values {
            for part in [name.as_bytes(), value] {
                plain.extend_from_slice(&u16::try_from(part.len()).ok()?.to_be_bytes());
                plain.extend_from_slice(part);
            }
        }
        let sealed = sealer.seal(nonce, &bound(context, id), &plain)?;
        let text = URL_SAFE_NO_PAD.encode(sealed);
        (text.len() <= MAX_TEXT).then_some(text)
    }

    pub(super) fn open(sealer: &Sealer, context: &[u8], id: SessionId, text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        Self::parse(&sealer.open(&bound(context, id), &sealed)?)
    }

    pub(super) fn parse(plain: &[u8]) -> Option<Self> {
        let (&FORMAT, rest) = plain.split_first()? else {
            return None;
        };
        let (issued, mut rest) = rest.split_first_chunk()?;
        let mut part = || {
            let (len, tail) = rest.split_first_chunk()?;
            let (part, tail) = tail.split_at_checked(u16::from_be_bytes(*len).into())?;
            rest = tail;
            Some((part, tail.is_empty()))
        };
        let mut values = BTreeMap::new();
        let mut done = plain.len() == 1 + size_of::<u64>();
        while !done {
            let (name, _) = part()?;
            let (value, last) = part()?;
            let name = String::from_utf8(name.to_vec()).ok()?;
            values.insert(name, Bytes::copy_from_slice(value));
            done = last;
        }
        Some(Self {
            issued_ms: u64::from_be_bytes(*issued),
            values,
        })
    }
}

/// Only together with this id is a ticket worth anything.
fn bound(context: &[u8], id: SessionId) -> Vec<u8> {
    [context, id.as_bytes()].concat()
}
