//! Session ids: what the client carries, and what everybody else sees.

use std::fmt;

use sha2::{Digest, Sha256};

/// Random bytes in an id: 192 bits.
pub(crate) const SECRET_LEN: usize = 24;
/// Bytes of the slot tag, which stays the same when an id is rotated.
pub(crate) const TAG_LEN: usize = 2;
/// Bytes of an id as the cookie carries them.
pub(crate) const ID_LEN: usize = TAG_LEN + SECRET_LEN;

/// The secret that a client presents. It exists in the cookie and in the memory of the request only; stores and logs
/// get its [`SessionKey`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId([u8; ID_LEN]);

impl SessionId {
    /// Draws a new id from the operating system's random source.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; ID_LEN];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Draws a new id with the slot tag of a principal.
    pub(crate) fn tagged(tag: [u8; TAG_LEN]) -> Result<Self, getrandom::Error> {
        let mut id = Self::random()?;
        id.0[..TAG_LEN].copy_from_slice(&tag);
        Ok(id)
    }

    pub(crate) fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    pub(crate) fn key(&self) -> SessionKey {
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&self.0[..TAG_LEN]);
        SessionKey {
            tag,
            hash: Sha256::digest(self.0).into(),
        }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.key())
    }
}

/// What stores and logs know of a session id: its SHA-256, and a tag that places a session and its successors in one
/// Redis Cluster slot.
///
/// Nobody can sign in with a key: the way back to the id is the preimage of a hash of 192 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    tag: [u8; TAG_LEN],
    hash: [u8; 32],
}

impl SessionKey {
    /// A key by its parts, for tools and tests that work on a store directly.
    #[must_use]
    pub const fn from_parts(tag: [u8; 2], hash: [u8; 32]) -> Self {
        Self { tag, hash }
    }

    /// The slot tag. It is no part of the secret: random for a session that is nobody's, the
    /// [principal's](crate::Principal::tag) once somebody has signed in, and the same when an id is rotated.
    #[must_use]
    pub fn tag(&self) -> [u8; 2] {
        self.tag
    }

    /// The key of a session with this tag whose hash is shown as `hex`.
    pub(crate) fn parse(tag: [u8; TAG_LEN], hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self { tag, hash })
    }

    /// The SHA-256 of the id.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// Lower-case hexadecimal of the hash.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_with_the_tag_of_another_shares_nothing_else() {
        let old = SessionId::random().unwrap();
        let new = SessionId::tagged(old.key().tag()).unwrap();
        assert_eq!(old.key().tag(), new.key().tag());
        assert_ne!(old.as_bytes()[TAG_LEN..], new.as_bytes()[TAG_LEN..]);
        assert_ne!(old.key().hash(), new.key().hash());
    }

    #[test]
    fn debug_output_shows_the_hash_and_never_the_secret() {
        let id = SessionId::from_bytes([7; ID_LEN]);
        let shown = format!("{id:?} {:?} {}", id.key(), id.key());
        assert!(!shown.contains("0707"), "{shown}");
        assert_eq!(id.key().to_string().len(), 64);
    }

    #[test]
    fn a_shown_key_is_read_again_and_nothing_else_is() {
        let key = SessionId::from_bytes([7; ID_LEN]).key();
        let text = key.to_string();
        assert_eq!(SessionKey::parse(key.tag(), &text), Some(key));
        let bad = [
            "",
            "zz",
            &text[1..],
            &format!("+{}", &text[1..]),
            &"ü".repeat(32),
        ];
        for bad in bad {
            assert_eq!(SessionKey::parse(key.tag(), bad), None, "{bad}");
        }
    }
}
