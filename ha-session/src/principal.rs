//! Whose a session is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::SessionError;
use crate::id::{SessionKey, TAG_LEN};

/// Who is signed in: the user id of the app, or whatever else names the one whose sessions are listed and revoked
/// together.
///
/// It is not a secret, and stores keep it as it is. Clones are cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

impl Principal {
    /// The longest name that is accepted, in bytes.
    pub const MAX_LEN: usize = 256;

    /// The principal with this name.
    ///
    /// # Errors
    /// [`SessionError::BadPrincipal`] when it is empty, longer than [`MAX_LEN`](Self::MAX_LEN) or holds a control
    /// character.
    pub fn new(name: impl AsRef<str>) -> Result<Self, SessionError> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::MAX_LEN || name.chars().any(char::is_control) {
            return Err(SessionError::BadPrincipal {
                principal: name.to_owned(),
            });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot tag of all its sessions, so that one Redis script sees a session and what revokes it. Sixteen bits of a
    /// hash; see [`SessionKey::tag`].
    #[must_use]
    pub fn tag(&self) -> [u8; 2] {
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&self.hash()[..TAG_LEN]);
        tag
    }

    /// The SHA-256 of the name.
    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({:?})", &*self.0)
    }
}

/// Makes a session one of a principal, as a part of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// Whose it becomes.
    pub principal: Principal,
    /// What the list of its sessions shows for it, such as "Firefox on Linux".
    pub device: Option<String>,
}

impl Claim {
    /// The most bytes of a device hint; what is longer is cut.
    pub const MAX_DEVICE: usize = 200;

    /// A claim for `principal`. The device hint may come from a header that anybody can fill with anything: it is cut to
    /// [`MAX_DEVICE`](Self::MAX_DEVICE) bytes and loses its control characters. Escape it where you show it.
    #[must_use]
    pub fn new(principal: Principal, device: Option<&str>) -> Self {
        Self {
            principal,
            device: device.map(tidy),
        }
    }
}

fn tidy(device: &str) -> String {
    let mut text = String::new();
    for letter in device.chars().filter(|letter| !letter.is_control()) {
        if text.len() + letter.len_utf8() > Claim::MAX_DEVICE {
            break;
        }
        text.push(letter);
    }
    text
}

/// Whose a stored session is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// Whose it is.
    pub principal: Principal,
    /// The principal's epoch when it was claimed. Revoking all sessions draws a higher one, and sessions of a lower one are
    /// gone.
    pub epoch: u64,
    /// How long ago, on the store's clock, all sessions of the principal were revoked last; `None` when they never were, or
    /// longer ago than sessions live.
    pub revoked_ago: Option<Duration>,
}

impl Owner {
    /// An owner, for stores of your own.
    #[must_use]
    pub fn new(principal: Principal, epoch: u64, revoked_ago: Option<Duration>) -> Self {
        Self {
            principal,
            epoch,
            revoked_ago,
        }
    }
}

/// One of a principal's sessions, as its user may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The hash of its id. It is a name that [`Session::revoke`](crate::Session::revoke) takes, and no way to use the session.
    pub key: SessionKey,
    /// The device hint that was given at sign-in.
    pub device: Option<String>,
    /// How long ago it was signed in.
    pub signed_in_ago: Duration,
    /// How long ago it was used, to within a tenth of the idle limit.
    pub used_ago: Duration,
}

impl SessionInfo {
    /// What a store knows of one session, for stores of your own.
    #[must_use]
    pub fn new(
        key: SessionKey,
        device: Option<String>,
        signed_in_ago: Duration,
        used_ago: Duration,
    ) -> Self {
        Self {
            key,
            device,
            signed_in_ago,
            used_ago,
        }
    }

    /// The SHA-256 of its id in hexadecimal, as [`Session::id`](crate::Session::id) says it.
    #[must_use]
    pub fn id(&self) -> String {
        self.key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(Principal::new("ann").unwrap().as_str(), "ann");
        for bad in ["", "a\0", "a\n", &"x".repeat(257)] {
            assert!(Principal::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_device_hint_is_cut_between_letters_and_cleaned() {
        let ann = Principal::new("ann").unwrap();
        let long = format!("a\r\n\0{}", "ü".repeat(200));
        let device = Claim::new(ann, Some(&long)).device.unwrap();
        assert_eq!(device, format!("a{}", "ü".repeat(99)));
    }
}
