//! Encryption of what a client carries: XChaCha20-Poly1305 with a secret from each key of the ring.
//!
//! The nonces have 192 bits, so that any number of app servers may draw them at random without ever meeting.

use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ha_core::sign::KeyRing;

pub(super) const NONCE_LEN: usize = 24;

/// Encrypts with the newest key of a ring and decrypts with each.
#[derive(Clone)]
pub(super) struct Sealer {
    ciphers: Vec<XChaCha20Poly1305>,
}

impl Sealer {
    pub(super) fn new(keys: &KeyRing, purpose: &str) -> Self {
        let cipher = |secret: [u8; 32]| XChaCha20Poly1305::new(&secret.into());
        Self {
            ciphers: keys.derive(purpose).map(cipher).collect(),
        }
    }

    /// Nonce and ciphertext. `None` for what is too long to encrypt, which no cookie is.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        context: &[u8],
        plain: &[u8],
    ) -> Option<Vec<u8>> {
        let payload = Payload {
            msg: plain,
            aad: context,
        };
        let cipher = self.ciphers.first()?;
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// What [`seal`](Self::seal) was given, if it was in the same context and with a key of the ring.
    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        Some(self.opened_by(context, sealed)?.1)
    }

    /// As [`open`](Self::open), and which key it was: 0 is the newest.
    pub(super) fn opened_by(&self, context: &[u8], sealed: &[u8]) -> Option<(usize, Vec<u8>)> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let nonce = XNonce::from(*nonce);
        let mut ciphers = self.ciphers.iter().enumerate();
        ciphers.find_map(|(key, cipher)| {
            let payload = Payload {
                msg: sealed,
                aad: context,
            };
            Some((key, cipher.decrypt(&nonce, payload).ok()?))
        })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}
