//! What a client has written and seen, in a form it can carry.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ha_core::sign::{KeyRing, TAG_LEN};

use super::lsn::{Lsn, Position};
pub(crate) use crate::routing::read::Known;

const DOMAIN: &str = "ha-db.postgres.token.v1";
/// The first byte of every token: what follows is read by it.
const VERSION: u8 = 1;
const BODY_LEN: usize = 1 + 8 + 2 * (4 + 8) + 1;

/// Proof of how far a client is: what it has written, and how far it has read.
///
/// A replica that has replayed [`Token::need`] shows this client everything it has written and nothing older than it
/// has already seen. The two positions are kept apart because they differ when a failover cuts the log short: a
/// *written* position past the cut is an acknowledged write that is gone, and is reported as
/// [`Error::Lost`](super::Error::Lost); a *seen* one only says that the client looked at something that did not survive.
///
/// ```
/// use ha_core::sign::{Key, KeyRing};
/// use ha_db::postgres::{Lsn, Token};
///
/// let keys = KeyRing::from(Key::from_bytes(&[7; 32])?);
/// let token = Token::new(7_300_000_000_000_000_000, 1, Lsn(0x300_0060));
/// let text = token.sign(&keys);
/// assert_eq!(Token::verify(&text, &keys)?, token);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    system_id: u64,
    written: Position,
    seen: Position,
    known: Known,
}

/// Why a token's text was refused. All of them mean "nothing is known about this client", none that it did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is not a token: wrong alphabet or length.
    #[error("text of {len} bytes is not a token")]
    Malformed {
        /// Bytes in the text.
        len: usize,
    },
    /// The text has a token's form, but no key of the ring signed it.
    #[error("token is not signed by any of our keys")]
    BadSignature,
    /// One of our keys signed it, for a version of this crate that writes tokens in another way.
    #[error("token of version {version}, this is version {VERSION}")]
    Version {
        /// The version that it says.
        version: u8,
    },
}

impl Token {
    /// A token for a client whose last write ended at `lsn` on `timeline` of the cluster `system_id`.
    #[must_use]
    pub const fn new(system_id: u64, timeline: u32, lsn: Lsn) -> Self {
        Self {
            system_id,
            written: Position { timeline, lsn },
            seen: Position {
                timeline: 0,
                lsn: Lsn(0),
            },
            known: Known::All,
        }
    }

    pub(crate) const fn at(system_id: u64, written: Position, seen: Position) -> Self {
        Self {
            system_id,
            written,
            seen,
            known: Known::All,
        }
    }

    pub(crate) const fn with_known(mut self, known: Known) -> Self {
        self.known = known;
        self
    }

    pub(crate) const fn known(&self) -> Known {
        self.known
    }

    /// The database cluster, as `pg_control_system()` names it.
    #[must_use]
    pub const fn system_id(&self) -> u64 {
        self.system_id
    }

    /// The timeline of the last write.
    #[must_use]
    pub const fn timeline(&self) -> u32 {
        self.written.timeline
    }

    /// The end of the last write.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.written.lsn
    }

    /// The end of the last write, with its timeline.
    #[must_use]
    pub const fn written(&self) -> Position {
        self.written
    }

    /// The newest state that a read has shown.
    #[must_use]
    pub const fn seen(&self) -> Position {
        self.seen
    }

    /// What a replica must have replayed before it may serve this client.
    #[must_use]
    pub fn need(&self) -> Position {
        self.written.max(self.seen)
    }

    /// Whether the position of an acknowledged write could not be learnt, so that only the primary is known to show it. The
    /// next use of the primary ends this.
    #[must_use]
    pub const fn is_primary_only(&self) -> bool {
        matches!(self.known, Known::Part)
    }

    /// The smallest token that covers both. A token of another cluster replaces this one: the two cannot be compared,
    /// and the newer knowledge is about the cluster that answers now.
    #[must_use]
    pub fn join(self, newer: Self) -> Self {
        if self.system_id != newer.system_id {
            return newer;
        }
        Self {
            system_id: self.system_id,
            written: self.written.max(newer.written),
            seen: self.seen.max(newer.seen),
            known: self.known.max(newer.known),
        }
    }

    /// The signed text form: 88 characters that are safe in a cookie, a header and a URL.
    #[must_use]
    pub fn sign(&self, keys: &KeyRing) -> String {
        let mut bytes = Vec::with_capacity(BODY_LEN + TAG_LEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.system_id.to_be_bytes());
        for position in [self.written, self.seen] {
            bytes.extend_from_slice(&position.timeline.to_be_bytes());
            bytes.extend_from_slice(&position.lsn.0.to_be_bytes());
        }
        bytes.push(self.known as u8);
        let tag = keys.sign(DOMAIN, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the signed text form.
    ///
    /// # Errors
    /// [`TokenError`]; never panics, whatever the text.
    pub fn verify(text: &str, keys: &KeyRing) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed { len: text.len() };
        // Checked before decoding so that a huge header costs nothing.
        if text.len() != (BODY_LEN + TAG_LEN).div_ceil(3) * 4 - (3 - (BODY_LEN + TAG_LEN) % 3) % 3 {
            return Err(malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed)?;
        let (body, tag) = bytes.split_at_checked(BODY_LEN).ok_or(malformed)?;
        if !keys.verify(DOMAIN, body, tag) {
            return Err(TokenError::BadSignature);
        }
        let mut rest = body;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head.iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let version = take(1) as u8;
        if version != VERSION {
            return Err(TokenError::Version { version });
        }
        let system_id = take(8);
        let mut position = || Position {
            timeline: take(4) as u32,
            lsn: Lsn(take(8)),
        };
        let (written, seen) = (position(), position());
        Ok(Self {
            system_id,
            written,
            seen,
            known: match take(1) {
                0 => Known::All,
                1 => Known::Acknowledged,
                _ => Known::Part,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use ha_core::sign::Key;
    use proptest::prelude::*;

    use super::*;

    fn keys(byte: u8) -> KeyRing {
        KeyRing::from(Key::from_bytes(&[byte; 32]).unwrap())
    }

    #[test]
    fn any_flipped_character_is_refused() {
        let text = Token::new(42, 3, Lsn(0x1234_5678)).sign(&keys(1));
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).unwrap();
            assert!(Token::verify(&bad, &keys(1)).is_err(), "position {at}");
        }
    }

    #[test]
    fn another_key_is_told_from_noise() {
        let text = Token::new(42, 3, Lsn(1)).sign(&keys(1));
        assert_eq!(
            Token::verify(&text, &keys(2)),
            Err(TokenError::BadSignature)
        );
        assert_eq!(
            Token::verify("nonsense", &keys(2)),
            Err(TokenError::Malformed { len: 8 })
        );
    }

    #[test]
    fn a_token_of_another_version_is_told_from_a_forged_one() {
        let text = Token::new(42, 3, Lsn(1)).sign(&keys(1));
        assert_eq!(text.len(), 88);
        let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes[0] = VERSION + 1;
        let tag = keys(1).sign(DOMAIN, &bytes[..BODY_LEN]);
        bytes[BODY_LEN..].copy_from_slice(&tag);
        let newer = URL_SAFE_NO_PAD.encode(&bytes);
        let version = VERSION + 1;
        assert_eq!(
            Token::verify(&newer, &keys(1)),
            Err(TokenError::Version { version })
        );
        assert_eq!(
            Token::verify(&newer, &keys(2)),
            Err(TokenError::BadSignature)
        );
    }

    #[test]
    fn ten_megabytes_are_refused_by_their_length() {
        let len = 10 << 20;
        let text = "A".repeat(len);
        assert_eq!(
            Token::verify(&text, &keys(1)),
            Err(TokenError::Malformed { len })
        );
    }

    #[test]
    fn a_join_covers_both_and_keeps_the_primary_only_mark() {
        let old = Token::new(1, 1, Lsn(900)).with_known(Known::Part);
        let new = Token::new(1, 2, Lsn(100));
        for joined in [old.join(new), new.join(old)] {
            assert_eq!(joined.written(), new.written());
            assert!(joined.is_primary_only());
        }
        let other = Token::new(2, 1, Lsn(5));
        assert_eq!(new.join(other), other);
    }

    proptest! {
        #[test]
        fn signed_text_round_trips(id in any::<u64>(), t in any::<u32>(), l in any::<u64>(), st in any::<u32>(), sl in any::<u64>(), k in 0..3usize) {
            let token = Token::at(
                id,
                Position { timeline: t, lsn: Lsn(l) },
                Position { timeline: st, lsn: Lsn(sl) },
            ).with_known([Known::All, Known::Acknowledged, Known::Part][k]);
            prop_assert_eq!(Token::verify(&token.sign(&keys(9)), &keys(9)), Ok(token));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,120}") {
            let _ = Token::verify(&text, &keys(9));
        }
    }
}
