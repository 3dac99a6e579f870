//! Keyed signatures with rotation, for values that a client carries and must not forge.
//!
//! A [`KeyRing`] holds the key that signs and the older keys that still verify, so that keys rotate without
//! invalidating what clients already hold: put the new key first, keep the old one until everything it signed has
//! expired, then drop it. The signature is HMAC-SHA256 (RFC 2104) over a *domain* and a message; the domain keeps a
//! value signed for one purpose from being accepted for another.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes in a signature.
pub const TAG_LEN: usize = 32;

/// Fewest bytes that a key may have: the output length of SHA-256, below which HMAC loses strength (RFC 2104 §3).
pub const MIN_KEY_LEN: usize = 32;

/// Why a key or a ring was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key has fewer than [`MIN_KEY_LEN`] bytes.
    #[error("key has {len} bytes, at least {MIN_KEY_LEN} are needed")]
    TooShort {
        /// How many bytes were given.
        len: usize,
    },
    /// The text is not URL-safe base64 without padding.
    #[error("key is not url-safe base64 without padding")]
    NotBase64,
}

/// A secret that signs. `Debug` never shows it.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Makes a key from secret bytes, which should come from a cryptographic random source.
    ///
    /// # Errors
    /// [`KeyError::TooShort`] when there are fewer than [`MIN_KEY_LEN`] bytes.
    pub fn from_bytes(secret: &[u8]) -> Result<Self, KeyError> {
        let too_short = KeyError::TooShort { len: secret.len() };
        if secret.len() < MIN_KEY_LEN {
            return Err(too_short);
        }
        Hmac::new_from_slice(secret)
            .map(Self)
            .map_err(|_| too_short)
    }

    /// Makes a key from the URL-safe base64 (no padding) text form that configuration files carry.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`] or [`KeyError::TooShort`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let secret = URL_SAFE_NO_PAD
            .decode(text.trim())
            .map_err(|_| KeyError::NotBase64)?;
        Self::from_bytes(&secret)
    }

    fn mac(&self, domain: &str, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // The length prefix keeps ("ab", "c") and ("a", "bc") apart.
        mac.update(&(domain.len() as u64).to_be_bytes());
        mac.update(domain.as_bytes());
        mac.update(message);
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key that signs, and the older ones that still verify.
///
/// ```
/// use ha_core::sign::{Key, KeyRing};
///
/// let old = KeyRing::from(Key::from_bytes(&[1; 32])?);
/// let tag = old.sign("token", b"value");
///
/// let rotated = KeyRing::new(Key::from_bytes(&[2; 32])?, [Key::from_bytes(&[1; 32])?]);
/// assert!(rotated.verify("token", b"value", &tag));
/// assert_eq!(rotated.verified_by("token", b"value", &tag), Some(1), "the one before the current one");
/// assert!(!rotated.verify("cookie", b"value", &tag), "another purpose");
/// # Ok::<(), ha_core::sign::KeyError>(())
/// ```
#[derive(Debug, Clone)]
pub struct KeyRing {
    current: Key,
    previous: Vec<Key>,
}

impl KeyRing {
    /// A ring that signs with `current` and verifies with `current` and each of `previous`.
    pub fn new(current: Key, previous: impl IntoIterator<Item = Key>) -> Self {
        Self {
            current,
            previous: previous.into_iter().collect(),
        }
    }

    /// Signs `message` for the purpose `domain` with the current key.
    #[must_use]
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; TAG_LEN] {
        self.current
            .mac(domain, message)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether any key of the ring made `tag` for this domain and message. Takes the same time wherever a wrong tag
    /// differs.
    #[must_use]
    pub fn verify(&self, domain: &str, message: &[u8], tag: &[u8]) -> bool {
        self.verified_by(domain, message, tag).is_some()
    }

    /// As [`verify`](Self::verify), and which key it was: 0 is the current one.
    #[must_use]
    pub fn verified_by(&self, domain: &str, message: &[u8], tag: &[u8]) -> Option<usize> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .position(|key| key.mac(domain, message).verify_slice(tag).is_ok())
    }

    /// A secret for the purpose `domain` from each key, the current one's first: for what a signature is not enough for, such as
    /// encryption. Nobody can tell the key, or the secret for another purpose, from one.
    pub fn derive(&self, domain: &str) -> impl Iterator<Item = [u8; TAG_LEN]> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .map(move |key| {
                let mut mac = key.0.clone();
                // Where a signature has the length of its domain, which never is this one.
                mac.update(&u64::MAX.to_be_bytes());
                mac.update(domain.as_bytes());
                mac.finalize().into_bytes().into()
            })
    }
}

impl From<Key> for KeyRing {
    fn from(current: Key) -> Self {
        Self::new(current, [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_short_key_is_refused_by_length() {
        assert_eq!(
            Key::from_bytes(&[0; 31]).unwrap_err(),
            KeyError::TooShort { len: 31 }
        );
    }

    #[test]
    fn text_keys_are_decoded_or_refused() {
        assert_eq!(
            Key::from_base64("not base64!").unwrap_err(),
            KeyError::NotBase64
        );
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        let ring = KeyRing::from(Key::from_base64(&text).unwrap());
        assert_eq!(ring.sign("d", b"m"), KeyRing::from(key(7)).sign("d", b"m"));
    }

    #[test]
    fn a_rotated_ring_accepts_the_old_key_and_signs_with_the_new() {
        let old = KeyRing::from(key(1));
        let new = KeyRing::new(key(2), [key(1)]);
        assert!(new.verify("d", b"m", &old.sign("d", b"m")));
        assert!(!old.verify("d", b"m", &new.sign("d", b"m")));
    }

    #[test]
    fn domain_and_message_are_not_interchangeable() {
        let ring = KeyRing::from(key(1));
        let tag = ring.sign("ab", b"c");
        assert!(!ring.verify("a", b"bc", &tag));
        assert!(!ring.verify("ab", b"d", &tag));
        assert!(!ring.verify("ab", b"c", &tag[..16]));
        assert!(!ring.verify("ab", b"c", b""));
    }

    #[test]
    fn each_key_has_a_secret_of_its_own_for_each_purpose() {
        let ring = KeyRing::new(key(2), [key(1)]);
        let secrets: Vec<_> = ring.derive("cookie").collect();
        assert_eq!(secrets.len(), 2);
        assert_ne!(secrets[0], secrets[1]);
        assert_eq!(
            secrets[1],
            KeyRing::from(key(1)).derive("cookie").next().unwrap()
        );
        assert_ne!(secrets[0], ring.derive("ticket").next().unwrap());
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", key(65)), "Key(..)");
    }
}
